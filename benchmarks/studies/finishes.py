"""What could make the second half better: short finishes from the same warmed-up full model, one change at a time.

Each starts from the checkpoint that DεpS reached at the end of its warm-up, and goes through the rest of the schedule
compressed to a few steps: the learning rate falls from the same value to 0, the ramp keeps its share. All cost the same
multiply-adds, so that a cheaper step buys more of them. One order of images and one draw of subnets; what was best
went into the late DεpS, which has whole trainings at three seeds (``methods.py``). Measured on validation images, since
they are there to choose with. Nothing of it goes back into a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jobs import Job, Place, accuracy, write_result
from setting import Changes, Setting, about_flops, flops_of_steps, lasting, uniform_subnets
from shrinking import warmed_up

from deps.profile.flops import count
from deps.supernet import SearchSpace, Supernet
from deps.train.data import ImageData
from deps.train.evaluate import calibrated
from deps.train.methods import method_of
from deps.train.recipe import Recipe
from deps.train.step import train_step

STUDY = "finishes"
BASE = "as-it-is"
SEED = 0
AVERAGE_DECAY = 0.97
"""Of the running mean of weights, a step, which the base is measured with too."""

VARIANTS: tuple[tuple[str, str, Changes], ...] = (
    (BASE, "DεpS as it is", {}),
    ("one-random", "one random subnet a step instead of two, and more steps", {"random_subnets": 1}),
    (
        "one-random-labels",
        "one random subnet, and labels beside the full model's answers",
        {"random_subnets": 1, "label_weight": 1.0},
    ),
    ("labels-too", "subnets learn from labels beside the full model's answers", {"label_weight": 1.0}),
    ("lr-double", "twice the learning rate", {"lr": 0.2}),
    ("lr-half", "half the learning rate", {"lr": 0.05}),
    ("average", "gradients of a step averaged, not summed", {"gradient_average": True}),
    ("temperature-2", "soft labels at temperature 2", {"distill_temperature": 2.0}),
    ("no-ramp", "ε at 1 from the start", {"epsilon_shape": "constant"}),
    ("reset-momentum", "momentum forgotten when the subnets join", {"reset_momentum": True}),
    ("unsorted", "channels not sorted", {"sort_channels": False}),
    ("labels-only", "subnets learn from labels, not from the full model", {"distill": False}),
    ("ramp-cosine", "a ramp along a cosine", {"epsilon_shape": "cosine"}),
)


def finish_recipe(setting: Setting, changes: Changes, seed: int) -> Recipe:
    """Return a recipe whose second half is the finish, as long as costs what the unchanged one costs."""
    short = setting.shortened(setting.finish_epochs)
    base = setting.whole_recipe(seed=seed, **short)
    changed = setting.whole_recipe(seed=seed, **{**short, **changes})
    space, per_epoch = base.search_space(10), setting.train_images // base.batch_size
    hundredths = 100 * base.epochs * finish_flops(space, base, per_epoch) / finish_flops(space, changed, per_epoch)
    return lasting(changed, round(hundredths))


def finish_flops(space: SearchSpace, recipe: Recipe, per_epoch: int) -> int:
    """Return the multiply-adds of the steps from the start of shrinking on."""
    method = method_of(space, recipe, per_epoch)
    return flops_of_steps(space, recipe, method, range(method.shrink_start, recipe.steps(per_epoch)))


@dataclass(frozen=True, kw_only=True)
class FinishJob:
    """One way to go on from the end of the warm-up to the end of a short schedule."""

    study: str
    name: str
    seed: int
    """Of the images' order and the subnets drawn; the warm-up is that of the setting's first seed."""

    changes: Changes = field(default_factory=dict)
    why: str = ""

    def planned(self, setting: Setting) -> int:
        """Return about how many multiply-adds it costs, as every one of them."""
        base = setting.whole_recipe(**setting.shortened(setting.finish_epochs))
        return about_flops(base, setting.train_images, after_warmup=True)

    def run(self, place: Place) -> None:
        setting = place.setting
        recipe = finish_recipe(setting, self.changes, self.seed)
        data = place.images(recipe)
        space, per_epoch = recipe.search_space(len(data.classes)), data.steps_per_epoch(recipe.batch_size)
        method, steps = method_of(space, recipe, per_epoch), recipe.steps(per_epoch)
        learner, _ = warmed_up(place, recipe, setting.seeds[0])
        mean = {name: tensor.detach().clone() for name, tensor in learner.supernet.tensors.items()}
        stream = data.training_stream(
            range(method.shrink_start, steps), recipe.batch_size, seed=recipe.seed, resolution=lambda _: None
        )
        for step, (x_NCHW, labels_N) in enumerate(stream, method.shrink_start):
            train_step(learner, method.plan(step), x_NCHW, labels_N, step=step)
            for name, tensor in learner.supernet.tensors.items():
                if tensor.is_floating_point():
                    # Channels change places before the first step; until then the mean is the weights themselves.
                    mean[name].lerp_(tensor.detach(), 1.0 if step == method.shrink_start else 1 - AVERAGE_DECAY)
        told: dict[str, Any] = {"study": self.study, "job": self.name, "why": self.why, "seed": self.seed}
        told |= {"steps": steps - method.shrink_start, "flops": finish_flops(space, recipe, per_epoch)}
        told["subnets"] = self._measured(learner.supernet, data, place)
        if not self.changes:
            told["averaged"] = self._measured(Supernet(space, mean), data, place)
        write_result(place, self, told)

    def _measured(self, supernet: Supernet, data: ImageData, place: Place) -> list[dict[str, Any]]:
        rows = []
        with torch.no_grad():
            for arch in uniform_subnets(supernet.space):
                module = calibrated(supernet, arch, data, images=place.setting.calibration_images)
                top1 = accuracy(module, data.validation)
                rows.append({"flops": count(supernet.space, arch).flops, "validation_top1": top1})
        return rows


def jobs(_: Setting) -> list[Job]:
    """Return every variant."""
    return [
        FinishJob(study=STUDY, name=f"{name}-{SEED}", seed=SEED, changes=changes, why=why)
        for name, why, changes in VARIANTS
    ]
