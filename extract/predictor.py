"""Foretell the loss of any subnet from a few measured ones: ridge regression, with its own error beside it.

Relies on leave-one-out residuals having a closed form for ridge regression, so that the error printed is that of
subnets the fit did not see, at the price of a single decomposition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deps.extract.search import Function, Values
from deps.ground.console import require
from deps.supernet.arch import ArchSpec
from deps.supernet.sampling import Genes, active_blocks, columns, distinct, encode, one_hot, random_genes
from deps.supernet.space import SearchSpace

PENALTIES = tuple(10.0**exponent for exponent in np.arange(-3, 4, 0.5))
"""Ridge penalties that are tried."""

MEANINGFUL_TAU = 0.2
"""A rank correlation below which the order that is predicted is hardly better than chance."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a predictor does on subnets it did not see, by leave-one-out."""

    samples: int
    """Measured subnets it was fitted on."""

    mean_error: float
    """Mean absolute error of the loss."""

    spread: float
    """Mean absolute error of who foretells the mean for every subnet: what a useful error is smaller than."""

    kendall_tau: float
    """Rank correlation: 1 when every pair is ordered rightly, 0 when the order is a guess."""

    spearman: float
    """Rank correlation of the ranks themselves."""

    def to_text(self) -> str:
        """Return one line for a person."""
        text = (
            f"predictor: {self.samples} measured subnets, error of the loss {self.mean_error:.4f} on subnets left out "
            f"(guessing the mean: {self.spread:.4f}), Kendall tau {self.kendall_tau:.2f}, Spearman {self.spearman:.2f}"
        )
        if self.kendall_tau < MEANINGFUL_TAU:
            text += "; they differ too little to be foretold, so the choice rests on measuring the best"
        return text


@dataclass(frozen=True, eq=False, slots=True)
class Predictor:
    """A fitted ridge regression on one-hot genes, with or without totals such as log FLOPs and their squares."""

    space: SearchSpace
    totals: tuple[Function, ...]
    """Costs whose logarithms enter, with squares and products; empty when they do not help."""

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    intercept: float
    quality: Quality

    def __call__(self, genes: Genes) -> Values:
        """Return the foretold loss of each subnet."""
        slopes = self.weights / self.scale
        constant = self.intercept - float(self.centre @ slopes)
        return _dot_features(self.space, self.totals, genes, slopes) + constant


def fit(space: SearchSpace, genes: Genes, losses: Values, *, totals: tuple[Function, ...]) -> Predictor:
    """Return the predictor that does best on subnets left out, over penalties and with or without totals.

    Args:
        space: the search space.
        genes: measured subnets, at least four, one row each.
        losses: what was measured of each.
        totals: costs that may enter as features.
    """
    candidates = [_fit_with(space, genes, losses, chosen) for chosen in ((), totals)]
    return min(candidates, key=lambda candidate: candidate.quality.mean_error)


def _fit_with(space: SearchSpace, genes: Genes, losses: Values, totals: tuple[Function, ...]) -> Predictor:
    raw = _features(space, totals, genes)
    centre, scale = raw.mean(axis=0), raw.std(axis=0)
    scale[scale < 1e-12] = 1.0  # a choice that no sample has says nothing: its weight stays 0
    x, mean = (raw - centre) / scale, float(losses.mean())
    y, count = losses - mean, len(losses)

    u, singular, vt = np.linalg.svd(x, full_matrices=False)
    projected = u.T @ y
    best_error, best_penalty, best_left_out = math.inf, PENALTIES[-1], np.zeros(count)
    for penalty in PENALTIES:
        shrink = singular**2 / (singular**2 + penalty)
        # Leverage includes the 1 / n of the intercept, so leaving out a sample also leaves it out of the mean.
        leverage = np.minimum((u**2) @ shrink + 1 / count, 1 - 1e-9)
        residual = (y - u @ (shrink * projected)) / (1 - leverage)
        error = float(np.abs(residual).mean())
        if error < best_error:
            best_error, best_penalty, best_left_out = error, penalty, losses - residual
    weights = vt.T @ (singular / (singular**2 + best_penalty) * projected)
    quality = _quality(losses, best_left_out, best_error)
    return Predictor(space, totals, centre, scale, weights, mean, quality)


def _quality(losses: Values, left_out: Values, error: float) -> Quality:
    stats = require("scipy.stats", "compile")
    spread = float(np.abs(losses - losses.mean()).mean())
    # Without two different values there is no order to get right.
    if np.ptp(losses) == 0 or np.ptp(left_out) == 0:
        tau = rho = 0.0
    else:
        tau = float(stats.kendalltau(losses, left_out).statistic)
        rho = float(stats.spearmanr(losses, left_out).statistic)
    return Quality(len(losses), error, spread, tau, rho)


def _dot_features(
    space: SearchSpace, totals: tuple[Function, ...], genes: Genes, slopes: NDArray[np.float64]
) -> Values:
    """Return ``_features(space, totals, genes) @ slopes``; one-hot columns are looked up instead of multiplied out."""
    where, active = columns(space), active_blocks(space, genes)
    result, start = np.zeros(len(genes)), 0
    for column, count in enumerate(where.choices.tolist()):
        if count == 1:
            continue
        part = slopes[start : start + count].take(genes[:, column])
        if column < where.expands.stop:
            part *= active[:, column % len(space.blocks)]
        result += part
        start += count
    if totals:
        result += _total_features(space, totals, genes) @ slopes[start:]
    return result


def _features(space: SearchSpace, totals: tuple[Function, ...], genes: Genes) -> NDArray[np.float64]:
    """Return one row a subnet: one-hot genes, then logarithms of the totals with their squares and products."""
    hot = one_hot(space, genes)
    return np.concatenate([hot, _total_features(space, totals, genes)], axis=1) if totals else hot


def _total_features(space: SearchSpace, totals: tuple[Function, ...], genes: Genes) -> NDArray[np.float64]:
    logs = np.stack([np.log(cost(genes)) for cost in totals], axis=1)
    first, second = np.triu_indices(logs.shape[1])
    # Centred near the middle of the axis, a square says something that the logarithm does not.
    middle = logs - np.log(np.stack([_middle(space, cost) for cost in totals]))
    return np.concatenate([middle, middle[:, first] * middle[:, second]], axis=1)


def _middle(space: SearchSpace, cost: Function) -> float:
    low, high = cost(encode(space, [ArchSpec.smallest(space), ArchSpec.largest(space)]))
    return math.sqrt(low * high)


def spread(space: SearchSpace, cost: Function, count: int, rng: np.random.Generator, *, draws: int = 20_000) -> Genes:
    """Return ``count`` distinct subnets that lie evenly along the logarithm of a cost, the two ends of the space first.

    Uniform draws crowd in the middle of the axis; a predictor fitted on them would be asked at the ends.
    """
    ends = encode(space, [ArchSpec.smallest(space), ArchSpec.largest(space)])
    pool = distinct(np.concatenate([ends, random_genes(space, draws, rng)]))
    pool = pool[np.isfinite(cost(pool))]
    logs = np.log(cost(pool))
    bins = np.minimum((logs - logs.min()) / max(float(np.ptp(logs)), 1e-12) * count, count - 1).astype(int)
    # Take one from every bin in turn; within a bin the order is that of the draw.
    place = np.zeros(len(pool), int)
    for bin_ in np.unique(bins):
        members = np.flatnonzero(bins == bin_)
        place[members] = np.arange(len(members))
    return pool[np.argsort(place, kind="stable")[:count]]
