"""Measure subnets spread over the budget's axis until a predictor of their loss is good enough.

Relies on measurements being remembered, so that a survey that was killed goes on, and a second search costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deps.extract.evaluate import Evaluator, Measured
from deps.extract.predictor import Predictor, Quality, fit, spread
from deps.extract.search import Function, Values
from deps.ground.console import Story
from deps.supernet.sampling import Genes, decode

FIRST = 40
"""Subnets that are measured before the first fit."""

GROWTH = 1.5
"""How many times as many are measured when they were too few."""

GOOD_TAU = 0.9
"""A rank correlation from which more samples would change little."""

SMALL_ERROR = 1 / 3
"""An error is small next to the differences it must judge from this share of them on."""


class Survey(NamedTuple):
    """What was measured, and the predictor fitted on it."""

    genes: Genes
    measured: Measured
    predictor: Predictor
    """Of the loss."""


def survey(
    evaluator: Evaluator,
    cost: Function,
    totals: tuple[Function, ...],
    rng: np.random.Generator,
    story: Story,
    *,
    most: int,
) -> Survey:
    """Measure subnets and fit the predictor of their loss, with more of them until more would help little.

    Args:
        evaluator: measures subnets.
        cost: the axis along which the sample is spread.
        totals: costs that may help the predictor.
        rng: draws the sample.
        story: told of every fit.
        most: how many subnets are measured at most.
    """
    space = evaluator.supernet.space
    # Drawn at once, so that a larger sample contains the smaller and nothing is measured in vain.
    genes = spread(space, cost, most, rng)
    count, before = min(FIRST, len(genes)), None
    while True:
        sample = genes[:count]
        measured = evaluator.measure(decode(space, sample), story)
        predictor = fit(space, sample, measured.loss, totals=totals)
        judged = differences(np.asarray(cost(sample), np.float64), measured.loss)
        if count == len(genes) or is_good_enough(predictor.quality, before, judged):
            story.say(f"subnets of like cost differ by {judged:.4f} on average, which is what the predictor must judge")
            return Survey(sample, measured, predictor)
        story.detail(f"{predictor.quality.to_text()}, to judge differences of {judged:.4f}: measuring more")
        count, before = min(round(count * GROWTH), len(genes)), predictor.quality


def differences(costs: Values, losses: Values) -> float:
    """Return by how much subnets of like cost differ: the mean distance from a parabola over the logarithm of the cost.

    A search under a budget chooses among such subnets; that a larger one is better needs no predictor.
    """
    x = np.log(costs)
    x = (x - x.mean()) / max(float(x.std()), 1e-12)
    features = np.stack([np.ones_like(x), x, x**2], axis=1)
    trend = features @ np.linalg.lstsq(features, losses, rcond=None)[0]
    return float(np.abs(losses - trend).mean())


def is_good_enough(quality: Quality, before: Quality | None, judged: float) -> bool:
    """Whether more samples would help little.

    That is so when nearly all pairs are ordered rightly, when the error is small next to the differences that are to be
    ``judged``, or when the last growth of the sample changed next to nothing.
    """
    if quality.kendall_tau >= GOOD_TAU or quality.mean_error <= SMALL_ERROR * judged:
        return True
    return before is not None and quality.mean_error > 0.97 * before.mean_error
