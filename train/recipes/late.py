"""DεpS with a late start, for any recipe: ``NAME-late``.

Ours, beside the paper's: docs/decisions/0018-late-start.md says what it was measured to give. The full model takes most
of the training, since it alone is a step of one pass; subnets then learn fast, at half of the learning rate as in the
paper, from labels as well as from the full model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from deps.train.recipe import Recipe

LATE: dict[str, Any] = {"warmup_fraction": 0.85, "cosine_at_shrink": 0.5, "random_subnets": 1, "label_weight": 1.0}
"""What is changed: subnets join for the last 15 % of the epochs, with half of the cosine behind, one random subnet a
step instead of two, and labels beside the full model's answers."""


def late(recipe: Recipe) -> Recipe:
    """Return a recipe with a late start; the ramp keeps its share of the epochs with subnets."""
    share = (1 - LATE["warmup_fraction"]) / (1 - recipe.warmup_fraction)
    ramp = round(recipe.epsilon_ramp * share, 3)
    return replace(recipe, name=f"{recipe.name}-late", epsilon_ramp=ramp, **LATE)
