"""A survey measures as many subnets as the predictor needs, and no subnet twice."""

from __future__ import annotations

import numpy as np
import pytest

from deps.extract.evaluate import Evaluator
from deps.extract.predictor import Quality
from deps.extract.survey import differences, is_good_enough, survey
from deps.ground.console import Story

QUIET = Story(quiet=True)


def test_a_survey_that_was_killed_measures_only_what_is_missing(run, costs, tmp_path):
    """Measuring is the long part of an extraction."""
    path = tmp_path / "measurements.jsonl"

    def surveyed():
        evaluator = Evaluator(run.supernet(), run.data(), cache=path, calibration_images=50)
        result = survey(evaluator, costs["flops"], (costs["flops"],), np.random.default_rng(0), QUIET, most=12)
        return evaluator.num_measured, result

    measured, whole = surveyed()
    assert measured == len(whole.genes) == 12
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:7]) + lines[7][:10])
    measured, resumed = surveyed()
    assert measured == 5
    np.testing.assert_array_equal(resumed.measured, whole.measured)
    np.testing.assert_array_equal(resumed.genes, whole.genes)


def test_the_order_of_losses_can_be_foretold_where_that_of_right_answers_cannot(run, costs, evaluator):
    """Three hundred images are too few to count by; how sure the answers are differs visibly."""
    totals = (costs["flops"], costs["params"])
    found = survey(evaluator, costs["flops"], totals, np.random.default_rng(0), QUIET, most=40).predictor.quality
    assert found.kendall_tau > 0
    assert found.spearman > 0
    assert found.mean_error < found.spread


def quality(**changes: float) -> Quality:
    """A predictor that needs more samples, but for the changes."""
    values = {"samples": 40, "mean_error": 0.02, "spread": 0.03, "kendall_tau": 0.5, "spearman": 0.7}
    return Quality(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "before", "judged", "enough"),
    [
        (quality(), None, 0.03, False),
        (quality(kendall_tau=0.95), None, 0.03, True),
        (quality(mean_error=0.009), None, 0.03, True),
        (quality(), quality(mean_error=0.03), 0.03, False),
        (quality(), quality(mean_error=0.0201), 0.03, True),
    ],
)
def test_sampling_ends_when_more_would_not_help(now, before, judged, enough):
    """In the right order, exact enough for what is to be told apart, or no better than before."""
    assert is_good_enough(now, before, judged) is enough


def test_what_must_be_judged_are_differences_at_like_cost(rng):
    """That larger subnets are better is no achievement: the trend is taken out, and what is left is measured."""
    costs = np.geomspace(1e5, 1e6, 200)
    trend = 2 - 0.3 * np.log(costs)
    assert differences(costs, trend) == pytest.approx(0, abs=1e-9)
    assert differences(costs, trend + 0.01 * rng.choice([-1.0, 1.0], 200)) == pytest.approx(0.01, rel=0.05)
