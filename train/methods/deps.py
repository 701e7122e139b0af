"""DεpS: the full model trains alone first; then subnets join, gently, taught by it in the same step.

Source: Annavajjala, Khare et al., "DεpS: Delayed ε-Shrinking for Faster Once-For-All Training", ECCV 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

from deps.supernet.arch import ArchSpec
from deps.supernet.space import SearchSpace
from deps.train.methods.base import Share, StepPlan, sandwich
from deps.train.recipe import Recipe
from deps.train.schedule import cosine_lr, epsilon


@dataclass(frozen=True, slots=True)
class Deps:
    """FM-Warmup until ``shrink_start_epoch``, then the sandwich under a growing ε, distilled in place."""

    space: SearchSpace
    recipe: Recipe
    steps_per_epoch: int

    def plan(self, step: int) -> StepPlan:
        """Return what happens in one step, counted from 0."""
        recipe = self.recipe
        steps = recipe.epochs * self.steps_per_epoch
        start = recipe.shrink_start_epoch * self.steps_per_epoch
        warmup_steps = recipe.lr_warmup * self.steps_per_epoch
        lr = cosine_lr(step, steps=steps, lr=recipe.lr, warmup_steps=warmup_steps)
        if step < start:
            full = Share(ArchSpec.largest(self.space), "largest", "labels", 1.0, recipe.dropout)
            return StepPlan(lr=lr, shares=(full,), epsilon=0.0, sorts_channels=False)
        factor = epsilon(
            step,
            start=start,
            ramp_steps=round(recipe.epsilon_ramp * self.steps_per_epoch),
            steps=steps,
            lr=recipe.lr,
            warmup_steps=warmup_steps,
        )
        return StepPlan(
            lr=lr,
            shares=sandwich(self.space, recipe, step, scale=factor),
            epsilon=factor,
            sorts_channels=recipe.sort_channels and step == start,
        )
