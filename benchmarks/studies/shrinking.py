"""The first epoch of shrinking under a glass: what happens to the full model when the subnets join.

Starts from the checkpoint that DεpS reached at the end of its warm-up, and goes on for one epoch three times: with the
ramp of ε, with ε at 1 from the start, and with the full model alone. Accuracy of the largest and the smallest subnet is
taken every few steps on validation images, BatchNorm recalibrated. Nothing of it goes back into the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jobs import Job, JobFailedError, Place, accuracy, write_result
from methods import STUDY as METHODS
from setting import Changes, Setting, flops_of_steps

from deps.supernet import ArchSpec, Supernet
from deps.train.checkpoint import checkpoints, read_checkpoint, restore
from deps.train.device import memory_format
from deps.train.evaluate import calibrated
from deps.train.methods import method_of
from deps.train.recipe import Recipe
from deps.train.step import Learner, train_step

STUDY = "shrinking"
LOOKS = 13
"""Looks in the epoch, the one before its first step included."""

VARIANTS: tuple[tuple[str, Changes], ...] = (
    ("ramp", {}),
    ("epsilon-off", {"epsilon_shape": "constant"}),
    ("alone", {"warmup_fraction": 1.0}),
)


def warmed_up(place: Place, recipe: Recipe, seed: int) -> tuple[Learner, int]:
    """Return what goes on by a recipe where DεpS of one seed ended its warm-up, and the step at which that was.

    Raises:
        JobFailedError: that run is not there.
    """
    whole = place.setting.whole_recipe(seed=seed)
    data = place.images(whole)
    space = recipe.search_space(len(data.classes))
    start = method_of(space, whole, data.steps_per_epoch(whole.batch_size)).shrink_start
    layout = memory_format(torch.device("cpu"), recipe.layout)
    learner = Learner.create(Supernet.create(space), recipe, memory_format=layout)
    folder = place.runs / METHODS / f"deps-{seed}"
    for path in checkpoints(folder):
        state, progress = read_checkpoint(path)
        if progress.step == start:
            restore(learner.supernet.tensors, state.weights)
            restore(learner.momentum, state.momentum)
            return learner, start
    raise JobFailedError(f"{folder} has no checkpoint of step {start}; run methods/deps-{seed} first")


@dataclass(frozen=True, kw_only=True)
class ShrinkingJob:
    """One way to go on from the end of the warm-up."""

    study: str
    name: str
    seed: int
    changes: Changes

    def planned(self, setting: Setting) -> int:
        """Return the multiply-adds of its epoch; those of the looks come on top."""
        recipe = setting.whole_recipe(**self.changes)
        space, per_epoch = recipe.search_space(10), setting.train_images // recipe.batch_size
        start = method_of(space, setting.whole_recipe(), per_epoch).shrink_start
        return flops_of_steps(space, recipe, method_of(space, recipe, per_epoch), range(start, start + per_epoch))

    def run(self, place: Place) -> None:
        recipe = place.setting.whole_recipe(seed=self.seed, **self.changes)
        data = place.images(recipe)
        space, per_epoch = recipe.search_space(len(data.classes)), data.steps_per_epoch(recipe.batch_size)
        method = method_of(space, recipe, per_epoch)
        learner, start = warmed_up(place, recipe, self.seed)
        supernet = learner.supernet
        looks = {start + round(i * per_epoch / (LOOKS - 1)) for i in range(LOOKS)}
        points: list[dict[str, float]] = []
        stream = data.training_stream(
            range(start, start + per_epoch), recipe.batch_size, seed=recipe.seed, resolution=lambda _: None
        )
        for step, (x_NCHW, labels_N) in enumerate(stream, start):
            if step in looks:
                points.append(self._look(supernet, data, place, step - start))
            train_step(learner, method.plan(step), x_NCHW, labels_N, step=step)
        points.append(self._look(supernet, data, place, per_epoch))
        told = {"study": self.study, "job": self.name, "seed": self.seed, "shrink_start": start}
        write_result(place, self, {**told, "steps_per_epoch": per_epoch, "points": points})

    def _look(self, supernet: Supernet, data: Any, place: Place, step: int) -> dict[str, float]:
        setting, point = place.setting, dict[str, float]({"step": step})
        for role, arch in (
            ("largest", ArchSpec.largest(supernet.space)),
            ("smallest", ArchSpec.smallest(supernet.space)),
        ):
            module = calibrated(supernet, arch, data, images=setting.calibration_images // 4)
            point[role] = accuracy(module, data.validation, setting.watch_images)
        return point


def jobs(setting: Setting) -> list[Job]:
    """Return the three ways."""
    seed = setting.seeds[0]
    return [ShrinkingJob(study=STUDY, name=name, seed=seed, changes=changes) for name, changes in VARIANTS]
