"""What all studies share: the images, the space, the six subnets that are reported, and equal cost.

A setting is data: the recipe's name and what is changed in it. ``cifar10`` is what the page reports; ``smoke`` goes
through the same code in a minute or two, on a few digits. Relies on a method's plan being a function of the step, so
that what a training will cost is known before it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from deps.ground.energy import EnergyMeter
from deps.profile.flops import count
from deps.supernet import ArchSpec, SearchSpace
from deps.train.cost import Cost, CostAccount
from deps.train.distributed import ALONE
from deps.train.methods import Method, method_of
from deps.train.recipe import Recipe, override
from deps.train.recipes import get_recipe

SUBNETS = 6
"""Subnets whose accuracy is reported, from the smallest to the largest uniform one."""

SAMPLED = 16
"""One step in so many is looked at where about is enough."""

Changes = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Where the studies take place."""

    name: str
    recipe: str
    changes: Changes
    train_images: int
    """Images of an epoch, after validation images were held out."""

    seeds: tuple[int, ...]
    families: dict[str, tuple[str, Changes]]
    """Recipe and changes of the other families, for the question whether it generalises."""

    larger: tuple[str, Changes]
    """Recipe and changes of a larger space of the same family."""

    budgets: tuple[str, ...]
    """Multiply-adds of the subnets that are extracted and served, as --flops takes them."""

    watch_images: int = 2000
    """Validation images for the curve over the training; the end is measured on all of them."""

    calibration_images: int = 2000

    short_epochs: int = 3
    """Epochs of ablations and of other spaces, which have a base of the same length."""

    larger_epochs: int = 10
    """Epochs of DεpS in the larger space."""

    finish_epochs: int = 1
    """Epochs whose second half is a short finish, see ``finishes.py``."""

    def whole_recipe(self, **changes: Any) -> Recipe:
        """Return the recipe of a training in this setting."""
        return override(get_recipe(self.recipe), {**self.changes, **changes})

    def shortened(self, epochs: int) -> Changes:
        """Return what is changed in a training of another length, whose ramp keeps its share of it."""
        whole = self.whole_recipe()
        return {"epochs": epochs, "epsilon_ramp": whole.epsilon_ramp * epochs / whole.epochs}


CIFAR10 = Setting(
    name="cifar10",
    recipe="cifar10-tiny",
    changes={"depths": (2, 3), "epochs": 8, "evaluation_subnets": 0, "threads": 1},
    train_images=45_000,
    seeds=(0, 1, 2),
    budgets=("1.4M", "2M", "2.6M"),
    families={
        "proxyless": ("cifar10-proxyless-tiny", {"depths": (), "classifier_lr": 1.0}),
        "proxyless-slow": ("cifar10-proxyless-tiny", {"depths": (), "classifier_lr": 1.0, "lr": 0.02}),
        "proxyless-classifier": ("cifar10-proxyless-tiny", {"depths": (), "classifier_lr": 1 / 16}),
        "resnet": ("cifar10-resnet50-narrow", {"depths": ()}),
    },
    larger=("cifar10-narrow", {"kernels": (3,)}),
)
SMOKE = Setting(
    name="smoke",
    recipe="digits",
    changes={"kernels": (3,), "epochs": 4, "train_images": 256, "batch_size": 32, "epsilon_ramp": 0.5}
    | {"evaluation_subnets": 0, "threads": 1, "calibration_images": 64, "evaluation_images": 100},
    train_images=256,
    seeds=(0, 1),
    budgets=("0.3M", "0.5M", "0.7M"),
    families={
        "proxyless": ("digits-proxyless", {"kernels": ()}),
        "resnet": ("digits-resnet50", {"kernels": ()}),
    },
    larger=("digits", {"kernels": ()}),
    watch_images=50,
    calibration_images=64,
    short_epochs=2,
    larger_epochs=5,
)
SETTINGS = {setting.name: setting for setting in (CIFAR10, SMOKE)}


def uniform_subnets(space: SearchSpace) -> list[ArchSpec]:
    """Return six subnets, by multiply-adds: all stages have the n-th depth, all blocks the m-th expand ratio.

    Kernels are the largest; widths, where they are elastic, go with the expand ratios. Where there are more than six,
    the smallest, the largest and four evenly between them.
    """
    depths = max(len(choices) for choices in space.depth_choices)
    expands = max(len(stage.expands) for stage in space.stages)

    def nth(choices: Any, index: int, of: int) -> Any:
        return choices[round(index / max(of - 1, 1) * (len(choices) - 1))]

    found = {
        ArchSpec.create(
            space,
            depths=[nth(choices, d, depths) for choices in space.depth_choices],
            expands=[nth(space.stages[s].expands, e, expands) for s, _ in space.blocks],
            widths=[nth(choices, e, expands) for choices in space.width_choices],
        )
        for d in range(depths)
        for e in range(expands)
    }
    ordered = sorted(found, key=lambda arch: count(space, arch).flops)
    if len(ordered) <= SUBNETS:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (SUBNETS - 1))] for i in range(SUBNETS)]


def planned_flops(recipe: Recipe, train_images: int, num_classes: int) -> int:
    """Return the multiply-adds that a training will cost, by the account of ``deps.train.cost``."""
    space, steps_per_epoch = recipe.search_space(num_classes), train_images // recipe.batch_size
    method = method_of(space, recipe, steps_per_epoch)
    return flops_of_steps(space, recipe, method, range(recipe.steps(steps_per_epoch)))


def flops_of_steps(space: SearchSpace, recipe: Recipe, method: Method, steps: Sequence[int]) -> int:
    """Return the multiply-adds of some steps of a training."""
    account = CostAccount(space, Cost(), EnergyMeter([]))
    for step in steps:
        account.add(method.plan(step), recipe.batch_size)
    return account.total(ALONE, 0.0).flops


def about_flops(recipe: Recipe, train_images: int, *, after_warmup: bool = False) -> int:
    """Return what ``planned_flops`` would, about, from a sample of the steps; or the part of it after the warm-up."""
    space, steps_per_epoch = recipe.search_space(10), train_images // recipe.batch_size
    method = method_of(space, recipe, steps_per_epoch)
    steps = range(method.shrink_start if after_warmup else 0, recipe.steps(steps_per_epoch))
    looked_at = steps[::SAMPLED]
    return round(flops_of_steps(space, recipe, method, looked_at) * len(steps) / max(len(looked_at), 1))


def same_cost(recipe: Recipe, budget: int, train_images: int, *, num_classes: int = 10) -> Changes:
    """Return the epochs, the last of them cut short, with which a training costs ``budget`` multiply-adds.

    Cost grows nearly in proportion to length, so a few corrections by the rule of three suffice; a hundredth of an
    epoch is the finest step.
    """
    hundredths, cost, lengthened = 100 * recipe.epochs, planned_flops(recipe, train_images, num_classes), recipe
    for _ in range(3):
        hundredths = max(100, round(hundredths * budget / cost))
        lengthened = lasting(recipe, hundredths)
        cost = planned_flops(lengthened, train_images, num_classes)
    return {"epochs": lengthened.epochs, "last_epoch": lengthened.last_epoch}


def lasting(recipe: Recipe, hundredths: int) -> Recipe:
    """Return the recipe with a length in hundredths of an epoch."""
    epochs = -(-hundredths // 100)
    return replace(recipe, epochs=epochs, last_epoch=round(hundredths / 100 - (epochs - 1), 2))
