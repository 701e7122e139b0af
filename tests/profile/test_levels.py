"""The time of each net comes out of disturbed runs: exactly where the probe tells all, else within bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.profile.levels import Levels, Runs, robust_means, settle

NETS, VISITS = 6, 12


def disturbed(net_ms: np.ndarray, slowness: np.ndarray, noise: np.ndarray, told: np.ndarray) -> Runs:
    """Return runs of all nets in turns, each visit two stretches long."""
    count = NETS * VISITS * 2
    net = np.tile(np.repeat(np.arange(NETS), 2), VISITS)
    visit = np.repeat(np.arange(VISITS), NETS * 2)
    probe = 0.15 * told[: count + 1]
    return Runs(net, net_ms[net] * slowness[:count] * noise[:count], probe[:-1], probe[1:], visit)


def usual(levels: Levels, net_ms: np.ndarray) -> np.ndarray:
    return np.asarray(levels.ms / net_ms / np.median(levels.ms / net_ms))


@given(
    net_ms=st.lists(st.floats(0.05, 50), min_size=NETS, max_size=NETS),
    seed=st.integers(0, 99),
    gain=st.floats(0.3, 1.2),
)
def test_what_the_probe_tells_is_divided_out(net_ms: list[float], seed: int, gain: float) -> None:
    """A neighbour on the same core slows probe and net alike; ratios between nets must survive that."""
    rng = np.random.default_rng(seed)
    told = np.exp(rng.uniform(0, 0.4, NETS * VISITS * 2 + 1))
    slowness = (told[:-1] * told[1:]) ** (gain / 2)
    runs = disturbed(np.array(net_ms), slowness, np.ones(len(slowness)), told)
    levels = settle(runs, NETS)
    np.testing.assert_allclose(usual(levels, np.array(net_ms)), 1, atol=2e-3)
    without = settle(Runs(runs.net, runs.ms, np.ones_like(runs.ms), np.ones_like(runs.ms), runs.visit), NETS)
    assert levels.unsteadiness < max(0.1 * without.unsteadiness, 2e-3)


@given(seed=st.integers(0, 99))
def test_accidents_move_nothing_far(seed: int) -> None:
    """One run in ten took thirty times as long; a mean would be off by a factor of four."""
    rng = np.random.default_rng(seed)
    net_ms = rng.uniform(1, 10, NETS)
    count = NETS * VISITS * 2
    noise = rng.normal(1, 0.01, count)
    noise[rng.permutation(count)[: count // 10]] *= 30
    levels = settle(disturbed(net_ms, np.ones(count), noise, np.ones(count + 1)), NETS)
    np.testing.assert_allclose(levels.ms / net_ms, 1, atol=0.08)


@given(sigma=st.floats(0.002, 0.08), seed=st.integers(0, 99))
def test_noise_shrinks_with_the_root_of_the_runs_and_is_stated(sigma: float, seed: int) -> None:
    """A statement of uncertainty that is much too small would be a lie, and much too large no use."""
    rng = np.random.default_rng(seed)
    net_ms = rng.uniform(1, 10, NETS)
    count = NETS * VISITS * 2
    levels = settle(disturbed(net_ms, np.ones(count), np.exp(rng.normal(0, sigma, count)), np.ones(count + 1)), NETS)
    off = np.abs(np.log(usual(levels, net_ms)))
    assert off.max() < 8 * sigma / np.sqrt(VISITS * 2)
    assert levels.uncertainty.mean() < 4 * sigma / np.sqrt(VISITS * 2)
    assert levels.runs.tolist() == [VISITS * 2] * NETS


@given(seed=st.integers(0, 99), share=st.floats(0.3, 0.5))
def test_of_a_machine_with_two_speeds_the_fast_one_is_taken(seed: int, share: float) -> None:
    """A neighbour on the same core that comes and goes within a run is seen by no probe; a tenth is free of it."""
    rng = np.random.default_rng(seed)
    net_ms = rng.uniform(1, 10, NETS)
    count = NETS * VISITS * 2
    slow = 1 + (rng.random(count) < share) * rng.uniform(0.2, 0.6, count)
    noise = np.exp(rng.normal(0, 0.002, count))
    levels = settle(disturbed(net_ms, slow, noise, np.ones(count + 1)), NETS)
    assert levels.statistic == "tenth"
    np.testing.assert_allclose(usual(levels, net_ms), 1, atol=0.02)
    assert np.median(levels.uncertainty) < 0.01
    # The common scale stays that of the means, so that another session, or another group, can be compared.
    runs = disturbed(net_ms, slow, noise, np.ones(count + 1))
    means = robust_means(np.log(runs.ms), runs.net, NETS, np.ones(count, np.bool_))
    assert np.median(np.log(levels.ms) - means) == pytest.approx(0, abs=1e-9)


def test_too_few_runs_have_no_tenth() -> None:
    """The tenth percentile of six runs is little else than their least."""
    rng = np.random.default_rng(0)
    net = np.tile(np.arange(NETS), 6)
    slow = 1 + (rng.random(len(net)) < 0.5) * rng.uniform(0.2, 0.6, len(net))
    told = np.ones(len(net))
    assert settle(Runs(net, slow, told, told, np.repeat(np.arange(6), NETS)), NETS).statistic == "mean"


def test_steady_times_are_returned_as_they_are() -> None:
    """Without any noise there is nothing to settle."""
    net_ms = np.arange(1.0, NETS + 1)
    count = NETS * VISITS * 2
    levels = settle(disturbed(net_ms, np.ones(count), np.ones(count), np.ones(count + 1)), NETS)
    np.testing.assert_allclose(levels.ms, net_ms, rtol=1e-12)
    np.testing.assert_allclose(levels.slowness, 1, rtol=1e-12)
    assert levels.unsteadiness == pytest.approx(0, abs=1e-12)


def test_net_without_believable_runs_has_no_time() -> None:
    """What was never undisturbed must not be guessed."""
    net_ms = np.arange(1.0, NETS + 1)
    count = NETS * VISITS * 2
    runs = disturbed(net_ms, np.ones(count), np.ones(count), np.ones(count + 1))
    runs.ms[runs.net == 2] = np.nan
    levels = settle(runs, NETS)
    assert np.flatnonzero(np.isnan(levels.ms)).tolist() == [2]
    assert levels.runs[2] == 0
    np.testing.assert_allclose(np.delete(levels.ms, 2), np.delete(net_ms, 2))


def test_robust_mean_is_the_mean_of_what_is_ordinary() -> None:
    """Medians alone throw away a third of what clean runs tell."""
    values = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 100.0])
    (mean,) = robust_means(values, np.zeros(6, np.intp), 1, np.ones(6, np.bool_))
    assert 0.9 < mean < 1.1
    assert np.isnan(robust_means(values, np.ones(6, np.intp), 2, np.ones(6, np.bool_)))[0]


def plain_huber(values: np.ndarray) -> float:
    """Huber's mean of one group as it is defined, value by value."""
    if not len(values):
        return float("nan")
    centre = float(np.median(values))
    for _ in range(12):
        width = 1.5 * 1.4826 * float(np.median(np.abs(values - centre)))
        if width == 0:
            break
        weights = [min(1.0, width / abs(value - centre)) if value != centre else 1.0 for value in values]
        centre = float(np.dot(weights, values) / np.sum(weights))
    return centre


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 60), is_rounded=st.booleans())
@settings(max_examples=100, deadline=None)
def test_all_groups_at_once_are_the_groups_one_by_one(seed: int, size: int, is_rounded: bool) -> None:
    """Padding must not leak into medians; rounded values make ties, and groups that agree to the last bit."""
    rng = np.random.default_rng(seed)
    values, group, used = rng.standard_t(2, size), rng.integers(0, 5, size), rng.random(size) < 0.7
    values = np.round(values) if is_rounded else values
    expected = [plain_huber(values[used & (group == number)]) for number in range(5)]
    np.testing.assert_allclose(robust_means(values, group, 5, used), expected, rtol=1e-9, atol=1e-12)
