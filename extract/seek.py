"""Search with all there is: an exact additive optimum to start from and to compare with, evolution, local swaps.

Relies on ``additive.py``, ``milp.py`` and ``search.py``; a space whose costs are no sums is searched without the exact
part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deps.extract.additive import fit_additive, is_additive
from deps.extract.costs import Cost
from deps.extract.milp import additive_optimum
from deps.extract.search import ENUMERABLE, Evolution, Function, Limit, SearchResult, excess, search
from deps.supernet import SearchSpace

SEEDED = Evolution(population=300, generations=30)
"""How long to search from a good start; a wider search finds hardly more and takes longer."""


class Yardstick(NamedTuple):
    """What a sum of choices, as near to the objective as it can be, reaches at most within the limits."""

    bound: float
    """By the additive model."""

    objective: float | None
    """What the objective itself says of the model's best subnet; None where rounding put it over a limit."""

    error: float
    """By how much model and objective differ on average."""

    spread: float
    """By how much the objective differs from its mean on average."""

    @property
    def is_exact(self) -> bool:
        """Whether the objective is itself a sum, so that the bound holds for it."""
        return self.error <= 1e-4 * self.spread

    def to_text(self, what: str, *, sign: int) -> str:
        """Return one line for a person.

        Args:
            what: the quantity that is foretold.
            sign: -1 where the search makes the quantity small.
        """
        reach = "at most" if sign > 0 else "at least"
        told = f"exact optimum of the additive model: a {what} of {reach} {sign * self.bound:.4f}"
        if self.is_exact:
            return f"{told}, which holds for the predictor too, being a sum"
        reached = "" if self.objective is None else f"; the predictor gives its subnet {sign * self.objective:.4f}"
        return f"{told} (the model is off by {self.error:.4f} on average{reached})"


class Sought(NamedTuple):
    """What was found, and what it may be compared with."""

    result: SearchResult
    yardstick: Yardstick | None
    """None where costs are no sums, or no subnet meets the limits."""


def seek(
    space: SearchSpace,
    objective: Function,
    limits: Sequence[Limit],
    *,
    rng: np.random.Generator,
    count: int = 8,
    evolution: Evolution = SEEDED,
    enumerable: int = ENUMERABLE,
) -> Sought:
    """Return the ``count`` best subnets that meet all limits, and the bound of an additive model.

    Args:
        space: the search space.
        objective: what to make large.
        limits: what must hold.
        rng: source of randomness; the same state gives the same result.
        count: how many subnets to return.
        evolution: how long to search a space that cannot be listed.
        enumerable: spaces up to this many subnets are listed instead.
    """
    start, yardstick = None, None
    if is_additive(space) and all(isinstance(limit.cost, Cost) for limit in limits):
        model = fit_additive(space, objective, limits, rng=rng)
        optimum = additive_optimum(space, model, limits)
        if optimum is not None:
            is_within = bool(excess(limits, optimum.genes)[0] <= 0)
            start = optimum.genes if is_within else None
            told = float(objective(optimum.genes)[0]) if is_within else None
            yardstick = Yardstick(optimum.bound, told, model.error, model.spread)
    found = search(
        space, objective, limits, rng=rng, count=count, start=start, evolution=evolution, enumerable=enumerable
    )
    return Sought(found, yardstick)
