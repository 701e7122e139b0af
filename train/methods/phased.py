"""Training in phases, each with its own subnets, learning rate and length; the first makes the teacher of the others.

Relies on phases being data: OFA and CompOFA are two lists of them.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from deps.supernet.arch import ArchSpec
from deps.supernet.space import SearchSpace
from deps.train.methods.base import Share, StepPlan, resolution_at
from deps.train.recipe import Recipe
from deps.train.schedule import cosine_lr

Draw = Callable[[np.random.Generator], ArchSpec]
"""Draws one subnet of those that a phase trains."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A stretch of training."""

    name: str
    epochs: float
    """Published length; what counts is its share of all phases."""

    rate: float
    """Learning rate at its start, relative to the first phase's."""

    subnets: int
    """Random subnets a step; 0 trains the full model alone, on labels."""

    draw: Draw | None = None
    sorts_channels: bool = False
    """Whether channels are sorted at its start."""

    sorting_rings: int = 0
    """How many smaller widths stay as they are then."""


class Phased:
    """Carries out a list of phases, the first of which trains the teacher."""

    def __init__(self, space: SearchSpace, recipe: Recipe, steps_per_epoch: int, phases: list[Phase]) -> None:
        assert phases[0].subnets == 0
        self.space, self.recipe, self.phases = space, recipe, phases
        self.steps = recipe.steps(steps_per_epoch)
        published = np.cumsum([phase.epochs for phase in phases])
        self.ends = [round(self.steps * float(end / published[-1])) for end in published]
        """For each phase the first step that is no longer of it."""

    @property
    def shrink_start(self) -> int:
        """The first step in which a subnet other than the largest trains."""
        return self.ends[0]

    def phase_at(self, step: int) -> int:
        """Return the index of the phase that a step belongs to."""
        return min(bisect.bisect_right(self.ends, step), len(self.phases) - 1)

    def plan(self, step: int) -> StepPlan:
        """Return what happens in one step, counted from 0."""
        index = self.phase_at(step)
        phase, start = self.phases[index], self.ends[index - 1] if index else 0
        lr = cosine_lr(step - start, steps=self.ends[index] - start, lr=self.recipe.lr * phase.rate)
        resolution = resolution_at(self.space, self.recipe, step)
        if phase.draw is None:
            full = Share(ArchSpec.largest(self.space, resolution), "largest", "labels", 1.0, self.recipe.dropout)
            return StepPlan(lr=lr, shares=(full,), epsilon=0.0, sorts_channels=False)
        draws = [phase.draw(np.random.default_rng((self.recipe.seed, 3, step, i))) for i in range(phase.subnets)]
        return StepPlan(
            lr=lr,
            shares=tuple(
                Share(replace(arch, resolution=resolution), "random", "teacher", 1.0, self.recipe.dropout)
                for arch in draws
            ),
            epsilon=1.0,
            sorts_channels=self.recipe.sort_channels and phase.sorts_channels and step == start,
            sorting_rings=phase.sorting_rings,
            takes_teacher=index == 1 and step == start,
        )
