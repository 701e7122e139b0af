"""What the time of each net is, from many disturbed runs: the arithmetic between stopwatch and table.

A run takes its net's own time, times how slow the device was at that moment. The probe, which runs right before and
right after, tells part of that slowness; what it tells is learned from all runs together and divided out. Robust means
settle the rest. Where a tenth of the runs met no slowness at all, these alone say more: of the two answers, the one
that odd and even visits agree on better is taken. Relies on numpy alone and knows no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]

Statistic: TypeAlias = Literal["mean", "tenth"]
"""What is taken of a net's runs: Huber's mean, the probe's word divided out, or the tenth percentile as it is."""

STEADIER = 0.9
"""The tenth percentile is taken where its odd and even visits differ by less than this share of what the means' do."""

FEWEST = 12
"""With fewer runs of any net a tenth of them is too little."""

# Beyond this a run tells of an accident and not of the device.
_ACCIDENT = 0.5
_ROUNDS = 6
_HUBER_ROUNDS = 12


@dataclass(frozen=True, slots=True)
class Runs:
    """Timed stretches in the order in which they were made; all arrays of shape (stretches,)."""

    net: Index
    """Position of the net that ran."""

    ms: Array
    """Time of one run; NaN where it cannot be believed."""

    before_ms: Array
    """Time of the probe right before."""

    after_ms: Array

    visit: Index
    """How often this net had been visited before; the halves that are compared are its odd and its even visits."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The time of each net, and how well it is known."""

    ms: Array
    """Shape (nets,): NaN for a net without any believable run."""

    spread_ms: Array
    """Half the distance between the quartiles, once the slowness of the moment is divided out."""

    runs: Index
    """How many stretches each rests on."""

    slowness: Array
    """Shape (stretches,): what the probe tells of each; 1 is as usual."""

    uncertainty: Array
    """Shape (nets,): by which share each is probably off, from the difference between its odd and even visits."""

    unsteadiness: float
    """By which share odd and even visits differ, in the median over the nets."""

    statistic: Statistic = "mean"
    """What tells the nets' times apart; their common scale is that of the means, whichever it is."""


def settle(runs: Runs, nets: int) -> Levels:
    """Return the time of each net from disturbed runs.

    Args:
        runs: of all nets, taking turns.
        nets: how many there are.
    """
    with np.errstate(invalid="ignore"):
        logs = np.log(runs.ms)
    seen = np.isfinite(logs)
    told = _told_by_probe(runs)
    level, slow = _settled(logs, told, runs.net, nets, seen)
    left = logs - slow - level[runs.net]
    spread = np.full(nets, np.nan)
    count = np.bincount(runs.net[seen], minlength=nets)
    for net in np.flatnonzero(count):
        quartiles = np.percentile(left[seen & (runs.net == net)], [25, 75])
        spread[net] = np.exp(level[net]) * (quartiles[1] - quartiles[0]) / 2
    halves = [seen & (runs.visit % 2 == half) for half in (0, 1)]
    statistic: Statistic = "mean"
    difference = _differences(*(_settled(logs, told, runs.net, nets, half)[0] for half in halves))
    if count[count > 0].min(initial=FEWEST) >= FEWEST:
        low = _differences(*(_tenths(logs, runs.net, nets, half) for half in halves))
        if _typical(low) < STEADIER * _typical(difference):
            statistic, difference = "tenth", low
            fast = _tenths(logs, runs.net, nets, seen)
            # Groups and sessions whose statistics differ must stay comparable: all nets keep the means' common scale.
            level = fast + np.nanmedian(level - fast)
    return Levels(
        ms=np.exp(level),
        spread_ms=spread,
        runs=count,
        slowness=np.exp(slow),
        uncertainty=difference / 2,
        unsteadiness=_typical(difference),
        statistic=statistic,
    )


def _differences(odd: Array, even: Array) -> Array:
    """Return by how much two answers differ for each net, once what all nets share is taken out."""
    difference = odd - even
    known = np.isfinite(difference)
    return np.asarray(np.abs(difference - (np.median(difference[known]) if known.any() else 0.0)))


def _typical(difference: Array) -> float:
    known = np.isfinite(difference)
    return float(np.median(difference[known])) if known.any() else float("inf")


def _tenths(logs: Array, net: Index, nets: int, used: NDArray[np.bool_]) -> Array:
    """Return the tenth percentile of each net's runs; NaN for a net without any."""
    found = np.full(nets, np.nan)
    for one in np.unique(net[used]):
        found[one] = np.percentile(logs[used & (net == one)], 10)
    return found


def _told_by_probe(runs: Runs) -> Array:
    """Return what the probes say of each stretch, shape (stretches, features), centred; constant probes say nothing."""
    sides = []
    for side in (runs.before_ms, runs.after_ms):
        logs = np.log(side)
        sides.append(np.clip(logs - np.nanmedian(logs), -_ACCIDENT, _ACCIDENT))
    before, after = (np.nan_to_num(side) for side in sides)
    features = np.stack([before, after, before**2, after**2, before * after], axis=1)
    return np.asarray(features - np.median(features, axis=0))


def _settled(logs: Array, told: Array, net: Index, nets: int, used: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return the logarithms of each net's time and of each stretch's slowness, from some of the stretches."""
    level = robust_means(logs, net, nets, used)
    slow = np.zeros(len(logs))
    for _ in range(_ROUNDS):
        left = np.clip((logs - level[net])[used], -_ACCIDENT, _ACCIDENT)
        known = told[used]
        # A little ridge: two probes that always agree must not share one effect as plus and minus infinity.
        inner = known.T @ known + 1e-4 * len(known) * np.eye(known.shape[1]) * max(float((known**2).mean()), 1e-12)
        slow = told @ np.linalg.solve(inner, known.T @ left)
        level = robust_means(logs - slow, net, nets, used)
    usual = float(np.median(slow[used])) if used.any() else 0.0
    return level + usual, slow - usual


def robust_means(values: Array, group: Index, groups: int, used: NDArray[np.bool_]) -> Array:
    """Return Huber's mean of each group: the mean of what is ordinary, with accidents held at arm's length.

    Args:
        values: shape (values,).
        group: which group each is in.
        groups: how many groups there are.
        used: which values count.

    Returns:
        Shape (groups,); NaN for a group without values.
    """
    order = np.argsort(group[used], kind="stable")
    own, counts = group[used][order], np.bincount(group[used], minlength=groups)
    # One row a group, so that a measurement's many looks at its state cost little beside its timing.
    rows = np.full((groups, max(1, int(counts.max(initial=0)))), np.inf)
    rows[own, np.arange(len(own)) - (np.cumsum(counts) - counts)[own]] = values[used][order]
    is_there = np.isfinite(rows)
    held = np.where(is_there, rows, 0.0)
    centre = _medians(rows, counts)
    for _ in range(_HUBER_ROUNDS):
        distance = np.abs(np.where(is_there, held - centre[:, None], np.inf))
        width = 1.5 * 1.4826 * _medians(distance, counts)
        weights = np.minimum(1.0, width[:, None] / np.maximum(distance, 1e-300))
        moves = width > 0  # where half of a group agree to the last bit, they are right
        centre = np.where(moves, (weights * held).sum(axis=1) / np.where(moves, weights.sum(axis=1), 1.0), centre)
    return centre


def _medians(rows: Array, counts: Index) -> Array:
    """Return the median of each row's first values, the rest being infinite; NaN for a row without values."""
    ordered = np.sort(rows, axis=1)
    every = np.arange(len(rows))
    last = np.maximum(counts, 1) - 1
    middle = (ordered[every, last // 2] + ordered[every, (last + 1) // 2]) / 2
    return np.where(counts > 0, middle, np.nan)
