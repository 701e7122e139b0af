"""The arithmetic between piece times and table entries: exact where the data are exact, wary where they are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.ground.errors import LatencyTableError
from deps.profile.designs import designed_genes
from deps.profile.fit import Fit, features, fit, flops_line
from deps.profile.pieces import PieceTime, clock_ms, joined_pieces, profiled_pieces
from deps.supernet import get_space
from deps.supernet.plan import plan
from deps.supernet.sampling import decode, random_archs


def test_designed_nets_recover_an_additive_truth() -> None:
    """The whole way from nodes to predictions is exact, where a net is the sum of its pieces."""
    space = get_space("digits")
    rng = np.random.default_rng(3)
    designed = [plan(space, arch) for arch in decode(space, designed_genes(space, 8))]
    truth = {piece.key: float(rng.uniform(0.1, 1)) for subnet in designed for piece in subnet.pieces()}
    profiles = []
    for subnet in designed:
        names = [piece.name for piece in subnet.pieces()]
        times = np.array([[1.25 * truth[piece.key] for piece in subnet.pieces()]] * 4)
        profiles.append(profiled_pieces(subnet, names, times))
    pieces = joined_pieces(profiles)
    nets = [list(plan(space, arch).pieces()) for arch in random_archs(space, 20, rng)]
    whole = np.array([0.3 + sum(truth[piece.key] for piece in net) for net in nets])
    form = fit(features(pieces, nets[:12]), whole[:12], pieces)
    predicted = features(pieces, nets[12:]) @ [form.scale, form.overhead_ms, form.per_node_ms]
    np.testing.assert_allclose(predicted, whole[12:], rtol=1e-9)


@given(
    scale=st.floats(0.3, 2),
    overhead=st.floats(0, 0.5),
    per_node=st.floats(-0.004, 0.02),
    seed=st.integers(0, 50),
)
@settings(deadline=None)
def test_exact_times_are_fitted_exactly(scale: float, overhead: float, per_node: float, seed: int) -> None:
    """Whole nets that are what the form says are predicted to rounding error, whichever form explains them."""
    rng = np.random.default_rng(seed)
    pieces = {str(i): PieceTime(float(t), 0, 3, 9) for i, t in enumerate(rng.uniform(0.1, 1, 30))}
    rows = np.stack([rng.uniform(2, 20, 14), np.ones(14), rng.integers(20, 90, 14)], axis=1)
    truth = rows @ [scale, overhead, per_node]
    form = fit(rows, truth, pieces)
    np.testing.assert_allclose(rows @ [form.scale, form.overhead_ms, form.per_node_ms], truth, rtol=1e-6)


def test_fit_is_no_richer_than_noise_allows() -> None:
    """With noise and no true overhead, the chosen form predicts new nets about as well as the truth does."""
    rng = np.random.default_rng(4)
    rows = np.stack([rng.uniform(2, 20, 40), np.ones(40), rng.integers(20, 90, 40)], axis=1)
    truth = rows[:, 0] * 0.9
    noisy = truth * rng.normal(1, 0.02, 40)
    form = fit(rows[:12], noisy[:12], {"a": PieceTime(1.0, 0, 1, 9)})
    error = np.abs(rows[12:] @ [form.scale, form.overhead_ms, form.per_node_ms] / truth[12:] - 1)
    assert error.mean() < 0.02


def test_entry_is_never_negative() -> None:
    """A time per node below zero is allowed only while every piece keeps a time of its own."""
    rng = np.random.default_rng(5)
    rows = np.stack([rng.uniform(2, 20, 14), np.ones(14), rng.integers(20, 90, 14)], axis=1)
    truth = rows @ [1.0, 0.0, -0.02]
    tiny = {"large": PieceTime(1.0, 0, 3, 9), "tiny": PieceTime(0.001, 0, 3, 9)}
    form = fit(rows, truth, tiny)
    assert all(form.entry(piece).median_ms >= 0 for piece in tiny.values())


@given(scale=st.floats(0.5, 1.5), clock=st.floats(0, 0.02), seed=st.integers(0, 50))
@settings(deadline=None)
def test_runtimes_clock_is_told_by_the_cheapest_node(scale: float, clock: float, seed: int) -> None:
    """Anchors that are all alike cannot tell a clock from a scale; the cheapest node can."""
    rng = np.random.default_rng(seed)
    work, nodes = rng.uniform(0.1, 1, 30), rng.integers(1, 9, 30)
    pieces = {
        str(i): PieceTime(float(own + clock * count), 0, int(count), 9, least_ms=float(clock + own / count * (i > 0)))
        for i, (own, count) in enumerate(zip(work, nodes, strict=True))
    }
    assert clock_ms(pieces.values()) == pytest.approx(clock)
    anchors = np.tile([4.5 + clock * 30, 1.0, 30.0], (12, 1))
    form = fit(anchors, scale * 4.5 * rng.normal(1, 0.01, 12), pieces)
    # Nets of few large nodes and of many small ones, which no anchor resembles.
    for own, count in ((10.0, 20), (2.0, 90)):
        predicted = form.scale * (own + clock * count) + form.overhead_ms + form.per_node_ms * count
        assert predicted == pytest.approx(scale * own, rel=0.02)
    assert all(form.entry(piece).median_ms >= 0 for piece in pieces.values())


def test_contradicting_times_are_refused() -> None:
    """Whole nets that get faster the more their nodes take are no measurement."""
    rows = np.stack([np.linspace(1, 10, 12), np.ones(12), np.full(12, 5.0)], axis=1)
    # Below zero even for the form that only scales.
    with pytest.raises(LatencyTableError, match="do not agree"):
        fit(-rows, np.linspace(1, 10, 12), {"a": PieceTime(1.0, 0, 1, 9)})


def test_entries_add_up_to_the_fitted_net() -> None:
    """A prediction is overhead plus entries, which must be the same as the fit of the whole."""
    space = get_space("digits")
    rng = np.random.default_rng(6)
    nets = [list(plan(space, arch).pieces()) for arch in random_archs(space, 6, rng)]
    keys = {piece.key for net in nets for piece in net}
    pieces = {
        key: PieceTime(float(t), 0.01, 4, 9) for key, t in zip(sorted(keys), rng.uniform(0.1, 1, 99), strict=False)
    }
    form = Fit(scale=0.8, overhead_ms=0.05, per_node_ms=-0.003)
    whole = features(pieces, nets) @ [form.scale, form.overhead_ms, form.per_node_ms]
    for net, expected in zip(nets, whole, strict=True):
        added = form.overhead_ms + sum(form.entry(pieces[piece.key]).median_ms for piece in net)
        assert added == pytest.approx(expected)


def test_piece_that_no_designed_net_has_is_named() -> None:
    """A kit of another space cannot judge this one."""
    net = list(plan(get_space("digits"), random_archs(get_space("digits"), 1, np.random.default_rng(0))[0]).pieces())
    with pytest.raises(LatencyTableError, match="no designed net has 'conv 1>16"):
        features({}, [net])


@given(slope=st.floats(0.001, 1), offset=st.floats(0, 5))
@settings(deadline=None)
def test_flops_line_is_a_line(slope: float, offset: float) -> None:
    """The rival is fitted as well as it can be: exactly, where times are a line."""
    flops = np.linspace(100, 900, 10)
    at = np.array([50.0, 1000.0])
    np.testing.assert_allclose(flops_line(flops, offset + slope * flops, at), offset + slope * at, rtol=1e-6, atol=1e-9)


@given(noise=st.floats(0.001, 0.03), seed=st.integers(0, 30))
@settings(deadline=None)
def test_terms_beside_the_scale_are_believed_as_far_as_the_anchors_agree(noise: float, seed: int) -> None:
    """Shrunk and not gated: on the whole no worse than the scale alone, whatever the noise, and better with little."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.uniform(2, 20, 300), np.ones(300), rng.integers(40, 90, 300)], axis=1)
    truth = 0.9 * rows[:, 0] + 0.1
    piece = {"a": PieceTime(1.0, 0, 1, 9)}
    form = fit(rows[:16], truth[:16] * rng.normal(1, noise, 16), piece)
    alone = fit(rows[:2], truth[:2], piece)
    assert alone.overhead_ms == alone.per_node_ms == 0
    error = np.abs(rows[16:] @ [form.scale, form.overhead_ms, form.per_node_ms] / truth[16:] - 1).mean()
    assert error < 0.0005 + 1.5 * noise
