"""A job of a study: one training through ``deps-train``, measured, and told as one small JSON file.

A job whose file is there is done; a training that was stopped goes on where it was. Relies on ``deps-train`` keeping a
checkpoint of every epoch, from which the accuracy on the way is measured afterwards, so that measuring costs the
training neither time nor a line of code.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from alone import train_alone
from setting import Changes, Setting, about_flops, planned_flops, same_cost, uniform_subnets
from torch import Tensor, nn

from deps.ground.files import read_json, write_json
from deps.ground.provenance import provenance
from deps.profile.flops import count
from deps.supernet import Supernet, recalibrate_bn
from deps.supernet.evaluation import top1
from deps.supernet.network import network
from deps.train.checkpoint import checkpoints, read_checkpoint
from deps.train.data import ImageData, Split
from deps.train.datasets import load_recipe_data
from deps.train.evaluate import calibrated
from deps.train.metrics import read_metrics
from deps.train.recipe import Recipe, override
from deps.train.recipes import get_recipe
from deps.train.run import read_results

SCHEMA_VERSION = 1
BATCH = 250


@dataclass(frozen=True, slots=True)
class Place:
    """Where jobs read and write."""

    setting: Setting
    runs: Path
    """Run folders, outside of the repository."""

    results: Path
    """One folder a study, one JSON a job."""

    data: Path | None

    def result(self, study: str, name: str) -> Path:
        return self.results / study / f"{name}.json"

    def read(self, study: str, name: str) -> dict[str, Any] | None:
        path = self.result(study, name)
        return read_json(path, schema_version=SCHEMA_VERSION) if path.exists() else None

    def images(self, recipe: Recipe) -> ImageData:
        return load_recipe_data(override(recipe, self._root()))

    def _root(self) -> Changes:
        return {"data": str(self.data)} if self.data is not None else {}


class JobFailedError(Exception):
    """A command of a job ended badly; what it did is kept, and other jobs may go on."""


def call(command: list[str], folder: Path) -> None:
    """Run a command to its end; when this process is told to stop, the command may save its state first.

    Raises:
        JobFailedError: it ended badly.
    """
    child = subprocess.Popen(command, cwd=folder)
    try:
        code = child.wait()
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
    if code:
        raise JobFailedError(f"{shlex.join(command)} ended with {code}")


class Job(Protocol):
    """Something that takes long and leaves one JSON file."""

    @property
    def study(self) -> str:
        """The study that it is of."""
        ...

    @property
    def name(self) -> str:
        """Its own name in the study."""
        ...

    def planned(self, setting: Setting) -> int:
        """Return about how many multiply-adds its training costs; what is measured afterwards comes on top."""
        ...

    def run(self, place: Place) -> None:
        """Do what is not done yet and write the result."""
        ...


@dataclass(frozen=True, kw_only=True)
class SupernetJob:
    """A supernet trained by ``deps-train`` and measured at six subnets."""

    study: str
    name: str
    seed: int
    changes: Changes = field(default_factory=dict)
    recipe: str = ""
    """Another one than the setting's."""

    same_cost_as: Changes | None = None
    """What is changed in the setting for the training whose multiply-adds this one is given too."""

    share: float = 1.0
    """Of those multiply-adds."""

    teacher: str = ""
    """Study and name of the job whose full model teaches."""

    diagnose: int = 0
    """Steps between two looks at gradients."""

    why: str = ""

    def resolved(self, setting: Setting) -> tuple[str, Changes]:
        """Return the recipe's name and everything that is changed in it."""
        name, images = self.recipe or setting.recipe, setting.train_images
        changes = {**setting.changes, **self.changes, "seed": self.seed}
        if self.same_cost_as is not None:
            like = override(get_recipe(name), {**setting.changes, **self.same_cost_as, "seed": self.seed})
            budget = round(self.share * planned_flops(like, images, 10))
            changes |= same_cost(override(get_recipe(name), changes), budget, images)
        if self.teacher:
            changes["teacher"] = self.teacher
        return name, changes

    def planned(self, setting: Setting) -> int:
        """Return the multiply-adds of its training; equal cost makes it that of what it is compared with."""
        changes = {**setting.changes, **(self.changes if self.same_cost_as is None else self.same_cost_as)}
        flops = about_flops(override(get_recipe(self.recipe or setting.recipe), changes), setting.train_images)
        return round(self.share * flops)

    def run(self, place: Place) -> None:
        name, changes = self.resolved(place.setting)
        folder = place.runs / self.study / self.name
        words = [name, *flags(changes)]
        if self.diagnose:
            words += ["--diagnose-gradients", str(self.diagnose)]
        folder.parent.mkdir(parents=True, exist_ok=True)
        given = ["--data", str(place.data.resolve())] if place.data is not None else []
        options = ["--keep-checkpoints", "1000", "--resume", "--out", f"{self.study}/{self.name}"]
        command = [sys.executable, "-m", "deps.train", *words, *given, *options]
        call(command, place.runs)
        told = {"study": self.study, "job": self.name, "why": self.why, "seed": self.seed}
        told |= {"command": shlex.join(["deps-train", *words])}
        told |= {key: value for key, value in changes.items() if key in ("method", "epochs", "last_epoch")}
        recipe = override(get_recipe(name), changes)
        write_result(place, self, {**told, **measured_run(folder, recipe, place)})


@dataclass(frozen=True, kw_only=True)
class AloneJob:
    """One of the six subnets, trained from scratch on its own, on as many images as the supernet saw."""

    study: str
    name: str
    seed: int
    index: int
    """Of the six."""

    def planned(self, setting: Setting) -> int:
        """Return the multiply-adds of its training."""
        recipe = setting.whole_recipe()
        space = recipe.search_space(10)
        return plain_flops(recipe, count(space, uniform_subnets(space)[self.index]).flops, setting.train_images)

    def run(self, place: Place) -> None:
        recipe = place.setting.whole_recipe(seed=self.seed)
        data = place.images(recipe)
        space = recipe.search_space(len(data.classes))
        arch = uniform_subnets(space)[self.index]
        cost = count(space, arch)
        torch.manual_seed(self.seed)
        result = trained_alone(
            network(space, arch), cost.flops, recipe, data, place, place.runs / self.study / self.name
        )
        told = {"study": self.study, "job": self.name, "seed": self.seed, "index": self.index}
        write_result(place, self, {**told, "arch": arch.to_dict(), "params": cost.params, **result})


def plain_flops(recipe: Recipe, flops: int, train_images: int) -> int:
    """Return the multiply-adds of training one plain network: a pass back costs two passes forward."""
    return 3 * flops * recipe.steps(train_images // recipe.batch_size) * recipe.batch_size


def trained_alone(
    module: nn.Module, flops: int, recipe: Recipe, data: ImageData, place: Place, folder: Path
) -> dict[str, Any]:
    """Train a plain network by a supernet's recipe and return what it cost and reached."""
    seconds = train_alone(module, recipe, data, folder)
    recalibrate_bn(module, data.calibration(images=place.setting.calibration_images))
    steps_per_epoch = data.steps_per_epoch(recipe.batch_size)
    steps = recipe.steps(steps_per_epoch)
    return {
        "flops": flops,
        "epochs": round(steps / steps_per_epoch, 2),
        "images": steps * recipe.batch_size,
        "train_flops": plain_flops(recipe, flops, len(data.train)),
        "seconds": round(seconds, 1),
        "validation_top1": accuracy(module, data.validation),
        "test_top1": accuracy(module, data.test),
    }


def flags(changes: Changes) -> list[str]:
    """Return the command line of some changes."""
    words: list[str] = []
    for name, value in changes.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            words += [f"--{flag}", ",".join(map(str, value))]
        else:
            words += [f"--{flag}", str(value)]
    return words


def write_result(place: Place, job: Job, content: dict[str, Any]) -> None:
    path = place.result(job.study, job.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"schema_version": SCHEMA_VERSION, "setting": place.setting.name, **content, "where": provenance()}
    write_json(path, whole)


def quick_batches(split: Split, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield evaluation batches in the layout that is quick on a processor."""
    for x_NCHW, labels_N in (split if limit is None else split.first(limit)).batches(BATCH):
        yield x_NCHW.contiguous(memory_format=torch.channels_last), labels_N


def accuracy(module: nn.Module, split: Split, limit: int | None = None) -> float:
    """Return top-1 in evaluation mode, to the hundredth of a point."""
    return round(top1(module.eval(), quick_batches(split, limit)), 6)


def measured_run(folder: Path, recipe: Recipe, place: Place) -> dict[str, Any]:
    """Return the six subnets of a finished run, and their accuracy at each epoch on the way."""
    data, setting = place.images(recipe), place.setting
    space = recipe.search_space(len(data.classes))
    archs = uniform_subnets(space)
    final = Supernet.load(folder)
    subnets = []
    for arch in archs:
        module, cost = calibrated(final, arch, data, images=setting.calibration_images), count(space, arch)
        subnets.append(
            {
                "arch": arch.to_dict(),
                "flops": cost.flops,
                "params": cost.params,
                "validation_top1": accuracy(module, data.validation),
                "test_top1": accuracy(module, data.test),
            }
        )
    results = read_results(folder)
    assert results is not None, "deps-train ended well, so its table is there"
    return {
        "steps": results["steps"],
        "seconds": results["seconds"],
        "cost": {name: results["cost"][name] for name in ("images", "flops")},
        "subnets": subnets,
        "curve": curve(folder, recipe, data, place),
        "gradients": gradients(folder),
    }


def curve(folder: Path, recipe: Recipe, data: ImageData, place: Place) -> list[dict[str, Any]]:
    """Return for each epoch what was spent until its end, and the validation accuracy of the six subnets then."""
    space = recipe.search_space(len(data.classes))
    watched = {record["step"]: record for record in read_metrics(folder)}
    points = []
    for path in reversed(checkpoints(folder)):
        state, progress = read_checkpoint(path)
        if progress.step not in watched:
            continue  # Where it was stopped and went on.
        supernet = Supernet(space, state.weights)
        figures = [
            accuracy(
                calibrated(supernet, arch, data, images=place.setting.calibration_images // 4),
                data.validation,
                place.setting.watch_images,
            )
            for arch in uniform_subnets(space)
        ]
        record = watched[progress.step]
        points.append(
            {
                "epoch": record["epoch"],
                "flops": progress.cost["flops"],
                "seconds": round(progress.seconds, 1),
                "epsilon": record["epsilon"],
                "largest_train_loss": record.get("loss/largest"),
                "validation_top1": figures,
            }
        )
    return points


def gradients(folder: Path) -> list[dict[str, Any]]:
    """Return norm and cosine of the subnets' gradients to the full model's by step, over the whole network."""
    path, rows = folder / "gradients.jsonl", []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            whole = record["stages"]["all"]
            row = {"step": record["step"], "role": record["role"], "epsilon": round(record["epsilon"], 5)}
            rows.append(
                row | {"cosine": round(whole["cosine"], 4), "norm": round(whole["norm"] / whole["full_norm"], 4)}
            )
    return rows
