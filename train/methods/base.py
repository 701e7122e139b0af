"""What a training method decides: for each step, which subnets train, with which loss, and how much they count.

Relies on a method being a pure function of the step, so that resuming needs no state of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

import numpy as np

from deps.supernet.arch import ArchSpec
from deps.supernet.sampling import random_archs
from deps.supernet.space import SearchSpace
from deps.train.recipe import Recipe

LossName: TypeAlias = Literal["labels", "distill", "finished", "teacher"]
"""Labels; soft labels of the largest in the same step; those of a finished teacher; or labels and the latter."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of one subnet in one step."""

    arch: ArchSpec
    role: Literal["largest", "smallest", "random"]
    loss: LossName
    scale: float
    """Factor on its gradient."""

    dropout: float


@dataclass(frozen=True, slots=True)
class StepPlan:
    """All that happens in one step; gradients of the shares are summed, then the optimizer steps once."""

    lr: float
    shares: tuple[Share, ...]
    """Where others learn from the largest subnet, it comes first."""

    epsilon: float
    """Factor on the subnets' gradients, for the record."""

    sorts_channels: bool
    """Whether channels are sorted before this step."""

    sorting_rings: int = 0
    """How many smaller widths stay as they are when channels are sorted."""

    takes_teacher: bool = False
    """Whether the full model, as it is before this step, becomes the finished teacher."""

    resets_momentum: bool = False
    """Whether momentum is forgotten before this step."""


class Method(Protocol):
    """A training method."""

    @property
    def shrink_start(self) -> int:
        """The first step in which a subnet other than the largest trains."""
        ...

    def plan(self, step: int) -> StepPlan:
        """Return what happens in one step, counted from 0."""
        ...


def resolution_at(space: SearchSpace, recipe: Recipe, step: int) -> int:
    """Return the side of the images of one step, drawn from those of the space alike, the same on every rank.

    Source: elastic resolution, Cai et al., ICLR 2020; one resolution a batch.
    """
    choices = space.resolutions
    return choices[0] if len(choices) == 1 else int(np.random.default_rng((recipe.seed, 6, step)).choice(choices))


def sandwich(space: SearchSpace, recipe: Recipe, step: int, *, scale: float) -> tuple[Share, ...]:
    """Return the shares of the sandwich rule: the largest, the smallest and random subnets.

    Random subnets are drawn from a seed made of the step and their index, so that every process draws the same.

    Args:
        space: the search space.
        recipe: number of random subnets, losses, dropout and seed.
        step: counted from 0.
        scale: factor on the gradients of all but the largest.

    Source: BigNAS, ECCV 2020.
    """
    loss: LossName = ("finished" if recipe.teacher else "distill") if recipe.distill else "labels"
    resolution = resolution_at(space, recipe, step)
    shares = [Share(ArchSpec.largest(space, resolution), "largest", "labels", 1.0, recipe.dropout)]
    shares.append(Share(ArchSpec.smallest(space, resolution), "smallest", loss, scale, 0.0))
    for index in range(recipe.random_subnets):
        rng = np.random.default_rng((recipe.seed, 3, step, index))
        arch = replace(random_archs(space, 1, rng)[0], resolution=resolution)
        shares.append(Share(arch, "random", loss, scale, 0.0))
    return tuple(shares)
