"""Prices of what a device does are found from few whole subnets, also when some measurements were disturbed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.ground.errors import LatencyTableError
from deps.profile.whole_fit import QUANTITIES, Prices, cross_validate, fit_prices, predict, quantities
from deps.supernet import get_space
from deps.supernet.plan import plan
from deps.supernet.sampling import decode, random_genes

MBV3 = get_space("ofa-mbv3-w1.2")
GENES = random_genes(MBV3, 300, np.random.default_rng(7))
ROWS = quantities(MBV3, GENES)


@given(prices=st.lists(st.floats(0, 1), min_size=9, max_size=9).filter(lambda prices: sum(prices) > 0.1))
@settings(max_examples=6, deadline=None)
def test_planted_prices_are_recovered(prices: list[float]) -> None:
    """If a device did cost exactly this, forty subnets would tell the times of all others."""
    unit = np.array([1.0, *ROWS.mean(axis=0)])
    true = np.array(prices) / unit
    times = true[0] + ROWS @ true[1:]
    model = fit_prices(ROWS[:40], times[:40])
    np.testing.assert_allclose(predict(model, ROWS[40:]), times[40:], rtol=5e-3)
    assert model.overhead_ms >= 0
    assert all(price >= 0 for price in model.of.values())


def test_one_disturbed_measurement_in_ten_does_not_move_the_fit() -> None:
    """Times are only ever too long: something else ran. The median of such times is right, their mean is not."""
    true = 2.0 + ROWS @ (np.ones(len(QUANTITIES)) / ROWS.mean(axis=0))
    disturbed = true.copy()
    disturbed[:60:10] *= 1.5
    model = fit_prices(ROWS[:60], disturbed[:60])
    assert np.abs(predict(model, ROWS[60:]) / true[60:] - 1).mean() < 0.01


def test_quantities_are_those_of_the_pieces() -> None:
    """A table is made of pieces; if their quantities did not add up to the nets', it would predict something else."""
    for genes, row in zip(GENES[:3], ROWS[:3], strict=True):
        (arch,) = decode(MBV3, genes[None])
        pieces = list(plan(MBV3, arch).pieces())
        by_hand = [sum(of(piece) for piece in pieces) for of in QUANTITIES.values()]
        np.testing.assert_allclose(row, by_hand)
    names = list(QUANTITIES)
    macs = ROWS[0, names.index("dense multiply-adds")] + ROWS[0, names.index("depthwise multiply-adds")]
    assert macs == sum(piece.macs for piece in plan(MBV3, decode(MBV3, GENES[:1])[0]).pieces())
    model = Prices(0.5, dict.fromkeys(QUANTITIES, 2.0), 0.0)
    pieces = list(plan(MBV3, decode(MBV3, GENES[:1])[0]).pieces())
    assert predict(model, ROWS[:1])[0] == pytest.approx(0.5 + sum(model.piece_ms(piece) for piece in pieces))


def test_left_out_subnets_are_really_left_out() -> None:
    """An error of subnets that the model was fitted on would flatter it: noise cannot be predicted."""
    genes = np.repeat(GENES[:12], 2, axis=0)
    own = np.repeat(np.random.default_rng(0).uniform(5, 10, 12), 2)
    left_out = cross_validate(genes, quantities(MBV3, genes), own)
    again = own.copy()
    again[:2] *= 3
    changed = cross_validate(genes, quantities(MBV3, genes), again)
    assert (changed.predicted_ms[:2] == left_out.predicted_ms[:2]).all()
    assert (changed.flops_line_ms[:2] == left_out.flops_line_ms[:2]).all()
    assert not (changed.predicted_ms == left_out.predicted_ms).all()


def test_too_few_subnets_are_refused() -> None:
    """Nine subnets, however often timed, say nothing of the others."""
    genes = np.repeat(GENES[:9], 5, axis=0)
    with pytest.raises(LatencyTableError, match="only 9 distinct subnets were measured; expected at least 10"):
        cross_validate(genes, quantities(MBV3, genes), np.ones(45))
