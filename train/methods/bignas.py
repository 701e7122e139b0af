"""BigNAS: the sandwich with in-place distillation from the first step on, every gradient at full weight.

Source: Yu et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", ECCV 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

from deps.supernet.space import SearchSpace
from deps.train.methods.base import StepPlan, sandwich
from deps.train.recipe import Recipe
from deps.train.schedule import cosine_lr


@dataclass(frozen=True, slots=True)
class BigNAS:
    """The sandwich rule at every step."""

    space: SearchSpace
    recipe: Recipe
    steps_per_epoch: int

    @property
    def shrink_start(self) -> int:
        """The first step in which a subnet other than the largest trains."""
        return 0

    def plan(self, step: int) -> StepPlan:
        """Return what happens in one step, counted from 0."""
        lr = cosine_lr(
            step,
            steps=self.recipe.steps(self.steps_per_epoch),
            lr=self.recipe.lr,
            warmup_steps=self.recipe.lr_warmup * self.steps_per_epoch,
        )
        shares = sandwich(self.space, self.recipe, step, scale=1.0)
        return StepPlan(lr=lr, shares=shares, epsilon=1.0, sorts_channels=False)
