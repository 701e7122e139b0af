"""Training methods, one small module each; all share one loop, one data path and one optimizer."""

from __future__ import annotations

from collections.abc import Callable

from deps.supernet.space import SearchSpace
from deps.train.methods.base import Method, Share, StepPlan
from deps.train.methods.bignas import BigNAS
from deps.train.methods.compofa import compofa
from deps.train.methods.deps import Deps
from deps.train.methods.ofa import ofa
from deps.train.recipe import Recipe

__all__ = ["Method", "Share", "StepPlan", "method_of"]

_METHODS: dict[str, Callable[[SearchSpace, Recipe, int], Method]] = {
    "deps": Deps,
    "ofa": ofa,
    "bignas": BigNAS,
    "compofa": compofa,
}


def method_of(space: SearchSpace, recipe: Recipe, steps_per_epoch: int) -> Method:
    """Return the method that the recipe names."""
    return _METHODS[recipe.method](space, recipe, steps_per_epoch)
