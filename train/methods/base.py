"""What a training method decides: for each step, which subnets train, with which loss, and how much they count.

Relies on a method being a pure function of the step, so that resuming needs no state of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from deps.supernet.arch import ArchSpec
from deps.supernet.sampling import random_archs
from deps.supernet.space import SearchSpace
from deps.train.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Share:
    """The part of one subnet in one step."""

    arch: ArchSpec
    role: Literal["largest", "smallest", "random"]
    loss: Literal["labels", "distill"]
    scale: float
    """Factor on its gradient."""

    dropout: float


@dataclass(frozen=True, slots=True)
class StepPlan:
    """All that happens in one step; gradients of the shares are summed, then the optimizer steps once."""

    lr: float
    shares: tuple[Share, ...]
    """The largest subnet comes first: the others may learn from it."""

    epsilon: float
    """Factor on the subnets' gradients, for the record."""

    sorts_channels: bool
    """Whether channels are sorted before this step."""


class Method(Protocol):
    """A training method."""

    def plan(self, step: int) -> StepPlan:
        """Return what happens in one step, counted from 0."""
        ...


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
    loss: Literal["labels", "distill"] = "distill" if recipe.distill else "labels"
    shares = [Share(ArchSpec.largest(space), "largest", "labels", 1.0, recipe.dropout)]
    shares.append(Share(ArchSpec.smallest(space), "smallest", loss, scale, 0.0))
    for index in range(recipe.random_subnets):
        rng = np.random.default_rng((recipe.seed, 3, step, index))
        shares.append(Share(random_archs(space, 1, rng)[0], "random", loss, scale, 0.0))
    return tuple(shares)
