"""Measure subnets spread over the budget's axis until a predictor fitted on them is good enough.

Relies on measurements being remembered, so that a survey that was killed goes on, and a second search costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deps.extract.evaluate import Evaluator
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


class Survey(NamedTuple):
    """What was measured, and the predictor fitted on it."""

    genes: Genes
    accuracies: Values
    predictor: Predictor


def survey(
    evaluator: Evaluator,
    cost: Function,
    totals: tuple[Function, ...],
    rng: np.random.Generator,
    story: Story,
    *,
    most: int,
) -> Survey:
    """Measure subnets and fit the predictor, with more of them until its error is no larger than that of a measurement.

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
        accuracies = evaluator.measure(decode(space, sample), story)
        predictor = fit(space, sample, accuracies, totals=totals, images=evaluator.num_images)
        if count == len(genes) or is_good_enough(predictor.quality, before):
            return Survey(sample, accuracies, predictor)
        story.detail(f"{predictor.quality.to_text()}: measuring more")
        count, before = min(round(count * GROWTH), len(genes)), predictor.quality


def is_good_enough(quality: Quality, before: Quality | None) -> bool:
    """Whether more samples would help little.

    That is so when the error is what the noise of the measurements alone would make of a perfect predictor (a normal
    error has a mean size of 0.8 standard deviations), when nearly all pairs are ordered rightly, or when the last
    growth of the sample changed next to nothing.
    """
    if quality.mean_error <= 0.8 * quality.noise or quality.kendall_tau >= GOOD_TAU:
        return True
    return before is not None and quality.mean_error > 0.97 * before.mean_error
