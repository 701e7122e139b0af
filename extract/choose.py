"""Choose one subnet of those that were measured: the lowest loss among those that top-1 cannot tell from the best.

Relies on nothing but the numbers. Why not simply the highest top-1 stands in
``docs/decisions/0005-choose-by-loss-within-noise.md``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deps.extract.search import Values


class Choice(NamedTuple):
    """Which subnet was chosen, and among which."""

    chosen: int
    """Index of the chosen."""

    standard_error: float
    """Of the best measured top-1, a fraction."""

    alike: NDArray[np.intp]
    """Indices of those whose top-1 is within one standard error of the best; the chosen is one of them."""


def standard_error(top1: float, images: int) -> float:
    """Return the standard error of a share of right answers, at least that of one wrong answer."""
    return math.sqrt(max(top1 * (1 - top1), 1 / images) / images)


def choose(top1: Values, loss: Values, images: int) -> Choice:
    """Return the subnet of the lowest loss among those whose top-1 is within one standard error of the best.

    Of equal losses the higher top-1 wins, then the one that stands first.

    Args:
        top1: shares of right answers, at least one.
        loss: cross-entropy of each.
        images: how many images each was measured on.
    """
    best = float(top1.max())
    error = standard_error(best, images)
    # The last digit of a fraction is rounding, and must not decide.
    alike = np.flatnonzero(top1 >= best - error - 1e-9)
    return Choice(int(alike[np.lexsort((-top1[alike], loss[alike]))[0]]), error, alike)
