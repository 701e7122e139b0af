"""DεpS: the full model trains alone first; then subnets join, gently, taught by it in the same step.

Source: Annavajjala, Khare et al., "DεpS: Delayed ε-Shrinking for Faster Once-For-All Training", ECCV 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

from deps.supernet.arch import ArchSpec
from deps.supernet.space import SearchSpace
from deps.train.methods.base import Share, StepPlan, resolution_at, sandwich
from deps.train.recipe import Recipe
from deps.train.schedule import Bend, cosine_lr, epsilon


@dataclass(frozen=True, slots=True)
class Deps:
    """FM-Warmup until ``shrink_start``, then the sandwich under a growing ε, distilled in place."""

    space: SearchSpace
    recipe: Recipe
    steps_per_epoch: int

    @property
    def shrink_start(self) -> int:
        """The first step in which a subnet other than the largest trains."""
        return round(self.recipe.steps(self.steps_per_epoch) * self.recipe.warmup_fraction)

    def plan(self, step: int) -> StepPlan:
        """Return what happens in one step, counted from 0."""
        recipe = self.recipe
        steps = recipe.steps(self.steps_per_epoch)
        start = self.shrink_start
        warmup_steps = recipe.lr_warmup * self.steps_per_epoch
        bend = Bend(start, recipe.cosine_at_shrink) if recipe.cosine_at_shrink and 0 < start < steps else None
        lr = cosine_lr(step, steps=steps, lr=recipe.lr, warmup_steps=warmup_steps, bend=bend)
        if step < start:
            largest = ArchSpec.largest(self.space, resolution_at(self.space, recipe, step))
            full = Share(largest, "largest", "labels", 1.0, recipe.dropout)
            return StepPlan(lr=lr, shares=(full,), epsilon=0.0, sorts_channels=False)
        factor = epsilon(
            step,
            start=start,
            ramp_steps=round(recipe.epsilon_ramp * self.steps_per_epoch),
            steps=steps,
            lr=recipe.lr,
            warmup_steps=warmup_steps,
            shape=recipe.epsilon_shape,
            bend=bend,
        )
        return StepPlan(
            lr=lr,
            shares=sandwich(self.space, recipe, step, scale=factor),
            epsilon=factor,
            sorts_channels=recipe.sort_channels and step == start,
            resets_momentum=recipe.reset_momentum and step == start,
        )
