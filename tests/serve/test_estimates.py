"""Estimates of batches: true to what is seen, slow to believe a hiccup, not stuck with what the start measured."""

from __future__ import annotations

import numpy as np
import pytest

from deps.serve.estimates import STALE_S, Estimates, best_batch, filled_curve, padded_curve


def test_curve_runs_straight_through_what_was_measured():
    """Sizes between are interpolated; beyond the largest the time grows in proportion."""
    assert filled_curve({1: 2.0, 4: 5.0}, 8) == pytest.approx([0, 2, 3, 4, 5, 6.25, 7.5, 8.75, 10])
    assert filled_curve({2: 3.0}, 2) == [0, 3.0, 3.0]


def test_padded_batch_takes_what_its_lane_takes():
    """TensorRT runs three images as four; a scheduler that thought otherwise would stop at three."""
    assert padded_curve({1: 1.0, 2: 1.1, 4: 1.2}) == [0, 1.0, 1.1, 1.2, 1.2]
    assert best_batch(padded_curve({1: 1.0, 4: 1.2})) == 4


@pytest.mark.parametrize(
    ("curve", "best"),
    [
        ([0, 1, 2, 3, 4], 1),
        ([0, 1, 1, 1, 1], 4),
        ([0, 1, 1.8, 2.65, 3.55], 2),
    ],
)
def test_batch_is_as_large_as_pays(curve: list[float], best: int):
    """A larger one that is hardly more efficient only makes the first request wait."""
    assert best_batch(curve) == best


def test_estimate_follows_the_machine_and_errs_on_the_late_side():
    """A machine that became twice as slow is known to be; nine batches of ten end by the estimate."""
    rng = np.random.default_rng(0)
    estimates = Estimates([[0.0, 0.010, 0.018]])
    taken = 0.020 * np.exp(rng.normal(0, 0.1, 400))
    for step, seconds in enumerate(taken):
        estimates.observe(0, 1, float(seconds), now=0.02 * step)
    ahead = estimates.seconds(0, 1, now=8.0)
    assert np.mean(taken[-200:] <= ahead) > 0.85
    assert ahead < 0.03


def test_one_hiccup_is_not_believed():
    """A batch that was stopped for a second says nothing about the next."""
    estimates = Estimates([[0.0, 0.010]])
    for step in range(40):
        estimates.observe(0, 1, 1.0 if step == 30 else 0.010, now=0.01 * step)
    assert estimates.seconds(0, 1, now=0.4) < 0.0125


def test_engine_that_rested_is_thought_of_by_the_others_pace():
    """Its own times are old; how the machine runs now is known from those that ran."""
    estimates = Estimates([[0.0, 0.010], [0.0, 0.040]])
    estimates.observe(1, 1, 0.4, now=0.0)  # slow once, long ago
    for step in range(100):
        estimates.observe(0, 1, 0.010, now=STALE_S + 0.1 * step)
    assert estimates.usual_seconds(1, 1, now=STALE_S + 10) == pytest.approx(0.040, rel=0.1)


# Seconds of 0 to 8 images on an engine that gains by larger batches, and on one that loses: its cache is small.
GAINS = filled_curve({1: 0.010, 2: 0.017, 4: 0.031, 8: 0.058}, 8)
LOSES = filled_curve({1: 0.010, 2: 0.022, 4: 0.048, 8: 0.100}, 8)


@pytest.mark.parametrize(
    ("first", "taken", "best"),
    [
        pytest.param({1: 0.010, 2: 0.025, 4: 0.050, 8: 0.100}, GAINS, 8, id="larger ones looked slow"),
        pytest.param({1: 0.020, 2: 0.030, 4: 0.044, 8: 0.080}, LOSES, 1, id="smaller ones looked slow"),
        pytest.param({1: 0.030, 2: 0.017, 4: 0.090, 8: 0.058}, GAINS, 8, id="anything"),
    ],
)
@pytest.mark.parametrize("pace", [1.0, 3.0])
def test_disturbed_start_is_found_out(first: dict[int, float], taken: list[float], best: int, pace: float):
    """Whatever the start measured, after some hundred images batches are as large as pays; and so they stay."""
    rng = np.random.default_rng(0)
    estimates = Estimates([filled_curve(first, 8)])
    now, images, sizes = 0.0, 0, []
    while images < 4000:
        size = estimates.size(0, 16, now)
        seconds = pace * taken[size] * float(np.exp(rng.normal(0, 0.03)))
        now += seconds
        estimates.observe(0, size, seconds, now)
        images += size
        if images > 600:
            sizes += [size]
    per_image = sum(taken[size] for size in sizes) / sum(sizes)
    assert per_image < 1.04 * taken[best] / best


def test_nothing_is_tried_that_takes_too_long_or_leaves_the_next_batch_empty():
    """A trial needs as many images as it and the best batch after it, and the time of whoever runs it."""
    estimates = Estimates([LOSES])
    for step in range(200):
        estimates.observe(0, 1, 0.010, now=0.01 * step)
    assert estimates.size(0, 2, now=2.0) == 1
    assert estimates.size(0, 3, now=2.0, longest=0.015) == 1
    assert estimates.size(0, 3, now=2.0) == 2


def test_many_images_are_several_batches():
    """A request larger than a batch is computed in parts."""
    estimates = Estimates([[0.0, 1.0, 1.5]])
    assert estimates.seconds(0, 5, 0.0) == pytest.approx(1.1 * (1.5 + 1.5 + 1.0))
    assert estimates.snapshot(0.0) == [{1: pytest.approx(1100), 2: pytest.approx(1650)}]
