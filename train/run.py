"""A run folder: what training writes, and what everything after it reads.

    recipe.json            the resolved recipe, with commit, versions and machine
    metrics.jsonl          one JSON object an epoch
    tensorboard/           the same as event files, where TensorBoard is installed
    checkpoints/           the newest training states
    pictures.json          what was found in the pictures of a folder: statistics, and that all can be opened
    best/                  the supernet of the epoch with the best watched figure, a run folder of its own
    gradients.jsonl        norms and cosines of the subnets' gradients, with --diagnose-gradients
    supernet.safetensors   the trained weights, with supernet.json, which names the space
    results.json           the table at the end; its presence says that the run is finished

Relies on each file being written whole, so a folder can be read at any moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from deps.ground.errors import DataError, FileError, RecipeError, RunError
from deps.ground.files import read_json, write_json
from deps.ground.provenance import provenance
from deps.supernet.space import SearchSpace
from deps.supernet.supernet import Supernet
from deps.train.augmentation import Augmentation
from deps.train.data import ImageData, SplitName
from deps.train.datasets import IMAGENET, default_workers, load_data, load_recipe_data
from deps.train.draws import generator
from deps.train.memory import MemorySplit
from deps.train.recipe import Recipe

SCHEMA_VERSION = 1
RECIPE, METRICS, RESULTS, TENSORBOARD, LOCK = "recipe.json", "metrics.jsonl", "results.json", "tensorboard", ".lock"
BEST = "best"

CALIBRATION_IMAGES = 2000
"""For supernets that were imported; once-for-all takes as many."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, opened for reading."""

    folder: Path
    recipe: Recipe | None
    """None for a supernet that was imported rather than trained here."""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    def supernet(self) -> Supernet:
        """Return the trained supernet.

        Raises:
            FileError: a file is missing or damaged.
            CheckpointError: the weights are not those of the space.
        """
        return Supernet.load(self.folder)

    @property
    def calibration_images(self) -> int:
        """Training images from which BatchNorm of its subnets is recalibrated."""
        return self.recipe.calibration_images if self.recipe is not None else CALIBRATION_IMAGES

    def cpu_threads(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which torch uses as many threads as the run was trained with."""
        return cpu_threads(self.recipe.threads if self.recipe else 0)

    def data(self, root: Path | None = None) -> ImageData:
        """Return the images that the run was trained on, and those it was not.

        Args:
            root: a folder of pictures to use instead; an imported supernet needs one.

        Raises:
            DataError: the run has no data set, its files cannot be used, or they have another number of classes.
        """
        if root is not None:
            data = load_data("imagefolder", root=root, workers=default_workers(), **self._statistics())
        elif self.recipe is not None:
            # Pictures may have been added since; the weights are used to the statistics of those they were trained on.
            given = self._statistics() if self.recipe.dataset == "imagefolder" else {}
            data = load_recipe_data(replace(self.recipe, **given), folder=self.folder)
        else:
            raise DataError(
                f"{self.folder} was imported and has no images of its own; give a folder with train/ and val/ "
                "with --data FOLDER"
            )
        outputs = SearchSpace.from_dict(read_json(self.folder / "supernet.json")["space"]).num_classes
        if len(data.classes) != outputs:
            raise DataError(
                f"{data.name} has {len(data.classes)} classes and the supernet in {self.folder} names {outputs}; give "
                "pictures of those classes with --data, or train for others with deps-train --finetune-from"
            )
        return data

    def stand_in(self) -> ImageData:
        """Return what can be said of an imported supernet's images without having any.

        Its preprocessing is that of its weights, classes are called by their numbers, and noise takes the place of
        pictures: enough to compare two implementations of one network, and nothing to measure accuracy with.
        """
        outputs = SearchSpace.from_dict(read_json(self.folder / "supernet.json")["space"]).num_classes
        preprocessing = replace(IMAGENET, **self._statistics())
        noise = torch.randint(256, (8, 3, preprocessing.crop, preprocessing.crop), generator=generator(0, 0, 0))

        def split(name: SplitName) -> MemorySplit:
            return MemorySplit(
                name=name,
                pixels_NCHW=noise.to(torch.uint8),
                labels_N=torch.zeros(len(noise), dtype=torch.int64),
                preprocessing=preprocessing,
            )

        return ImageData(
            name=self.name,
            classes=tuple(map(str, range(outputs))),
            train=split("train"),
            validation=split("validation"),
            test=split("test"),
            augmentation=Augmentation(),
        )

    def _statistics(self) -> dict[str, Any]:
        """Return the mean and deviation that the weights are used to: those of their images, or ImageNet's."""
        images = read_json(self.folder / "supernet.json").get("provenance", {}).get("images", {})
        return {"mean": tuple(images.get("mean", IMAGENET.mean)), "std": tuple(images.get("std", IMAGENET.std))}


def open_run(folder: Path | str) -> Run:
    """Return a finished run.

    Raises:
        RunError: the folder is missing, is no run, is unfinished or is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder} does not exist; train a supernet first, e.g. deps-train digits")
    if not (folder / "supernet.json").exists():
        if (folder / RECIPE).exists():
            raise RunError(f"{folder} is unfinished; continue it with deps-train {_recipe_name(folder)} --resume")
        raise RunError(
            f"{folder} is not a run folder: it holds neither supernet.json nor {RECIPE}; name one of deps-train's"
        )
    try:
        recipe = read_recipe(folder) if (folder / RECIPE).exists() else None
    except (FileError, RecipeError) as error:
        raise RunError(f"{folder} is damaged: {error}") from error
    return Run(folder=folder, recipe=recipe)


def newest_run(root: Path | str = "runs") -> Run:
    """Return the run under ``root`` that was finished last.

    Raises:
        RunError: there is none.
    """
    root = Path(root)
    finished = [path.parent for path in root.glob("*/supernet.json")]
    if not finished:
        raise RunError(
            f"no finished run in {root}/; train a supernet first, e.g. deps-train digits, or name one with --supernet"
        )
    return open_run(max(finished, key=lambda folder: (folder / "supernet.json").stat().st_mtime_ns))


def read_recipe(folder: Path) -> Recipe:
    """Return the recipe of a run.

    Raises:
        FileError: the file is missing or damaged.
        RecipeError: a setting is unknown or out of range.
    """
    value = read_json(folder / RECIPE, schema_version=SCHEMA_VERSION)
    if not isinstance(value.get("recipe"), dict):
        raise FileError(f"{folder / RECIPE} is damaged: it holds no recipe")
    return Recipe.from_dict(value["recipe"])


def read_results(folder: Path) -> dict[str, Any] | None:
    """Return the table of a finished run; None while it is unfinished.

    Raises:
        FileError: the file is damaged.
    """
    return read_json(folder / RESULTS, schema_version=SCHEMA_VERSION) if (folder / RESULTS).exists() else None


def _recipe_name(folder: Path) -> str:
    try:
        return read_recipe(folder).name
    except (FileError, RecipeError):
        return "RECIPE"


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads on the CPU within the block; 0 leaves its choice.

    On maps of a few pixels the threads of one operation mostly wait for each other: the digits train several times
    faster with one than with two that share their cores with other programs.
    """
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prepare(folder: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> Recipe:
    """Make ``folder`` ready for training ``recipe``; call it under ``locked``.

    Returns:
        The recipe of the run, whose ``group_size`` is what it was when the run was started.

    Raises:
        RunError: the folder holds another run, or something else that must not be touched.
    """
    present = {path.name for path in folder.iterdir()} - {LOCK}
    if present and not (folder / RECIPE).exists():
        raise RunError(f"{folder} is not empty and not a run folder; choose another place with --out")
    if (folder / RECIPE).exists() and overwrite:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
    if (folder / RECIPE).exists():
        if not resume:
            state = "a finished run" if (folder / RESULTS).exists() else "an unfinished run"
            raise RunError(
                f"{folder} holds {state}; continue it with --resume, start anew with --overwrite, "
                "or choose another place with --out"
            )
        stored = read_recipe(folder)
        # Runs older than the setting took the whole batch as one group.
        stored = replace(stored, group_size=stored.group_size or stored.batch_size)
        _require_same(folder, stored, recipe)
        return stored
    write_json(
        folder / RECIPE,
        {"schema_version": SCHEMA_VERSION, "recipe": recipe.to_dict(), "provenance": provenance()},
    )
    return recipe


def _require_same(folder: Path, stored: Recipe, asked: Recipe) -> None:
    before, now = stored.settings(), asked.settings()
    changed = [name for name in now if now[name] != before[name]]
    if changed:
        told = ", ".join(f"{name} {before[name]!r} there and {now[name]!r} now" for name in changed)
        raise RunError(
            f"{folder} was started with other settings ({told}); resume with the same, or choose another --out"
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training into ``folder``; the lock ends with the process, however it ends.

    Raises:
        RunError: another process holds it.
        FileError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise FileError(
            f"cannot write {folder}: {(error.strerror or str(error)).lower()}; choose another --out"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise RunError(f"{folder} is in use by another deps-train; wait for it, or choose another --out") from error
    try:
        yield
    finally:
        os.close(descriptor)
