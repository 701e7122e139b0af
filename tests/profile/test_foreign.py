"""A table from elsewhere is a latency table like any other, and says what is known of its error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deps.ground.errors import LatencyTableError
from deps.profile.foreign import Conditions, checked, fitted_table, imported_table, pieces_at
from deps.profile.latency import Entry, LatencyTable
from deps.profile.whole_fit import fit_prices, predict, quantities
from deps.profile.whole_nets import WholeNets
from deps.supernet import get_space
from deps.supernet.plan import plan
from deps.supernet.sampling import columns, decode, random_genes

DIGITS = get_space("digits")
CONDITIONS = Conditions(target="rtx", batch=64, backend="torch", device="a TITAN RTX")


def nets(count: int, seed: int = 0) -> WholeNets:
    """Return subnets whose times are a fixed sum over their pieces, with a little noise."""
    rng = np.random.default_rng(seed)
    genes = random_genes(DIGITS, count, rng)
    rows = quantities(DIGITS, genes)
    times = 0.3 + rows @ (0.1 / rows.mean(axis=0).clip(1e-9))
    return WholeNets(genes, times * rng.normal(1, 0.01, count), "nets.csv", "ms")


@pytest.fixture(scope="module")
def fitted() -> LatencyTable:
    return fitted_table(DIGITS, nets(60), CONDITIONS)


def test_fitted_table_predicts_what_the_model_predicts(fitted: LatencyTable, tmp_path: Path) -> None:
    """Search and MILP read the table; the stated error is the model's."""
    fitted.save(tmp_path / "t.json")
    table = LatencyTable.load(tmp_path / "t.json")
    genes = random_genes(DIGITS, 50, np.random.default_rng(1))
    own = nets(60)
    model = fit_prices(quantities(DIGITS, own.genes), own.measured_ms)
    np.testing.assert_allclose(table.predict_many(DIGITS, genes), predict(model, quantities(DIGITS, genes)))
    arch = decode(DIGITS, genes[:1])[0]
    assert table.predict(DIGITS, arch) == pytest.approx(table.predict_many(DIGITS, genes[:1])[0])
    form = table.linear_form(DIGITS, arch.resolution)
    assert form.constant > 0
    assert all((block >= 0).all() for block in form.blocks)


def test_fitted_table_tells_its_error_its_source_and_its_conditions(fitted: LatencyTable) -> None:
    """The number after ± comes from subnets that the model did not see."""
    assert fitted.error is not None
    assert 0.002 < fitted.error.mape < 0.03
    assert fitted.error.nets == len(fitted.held_out) == 60
    assert fitted.origin == "fitted"
    assert (fitted.batch, fitted.backend, fitted.device) == (64, "torch", {"name": "a TITAN RTX"})
    assert "fitted to times of whole nets in nets.csv" in fitted.to_text()
    assert "cross-validation" in fitted.provenance["error_from"]
    relative = [abs(check.predicted_ms / check.measured_ms - 1) for check in fitted.held_out]
    assert fitted.error.mape == pytest.approx(np.mean(relative))


def test_runs_of_an_entry_are_its_occurrences(fitted: LatencyTable) -> None:
    """A piece that no measured subnet has got its price from others, and the file shows it."""
    counts = dict.fromkeys(fitted.entries, 0)
    for arch in decode(DIGITS, nets(60).genes):
        for piece in plan(DIGITS, arch).pieces():
            counts[piece.key] += 1
    assert {key: entry.runs for key, entry in fitted.entries.items()} == counts


def test_fit_covers_the_resolutions_between_the_measured_ones() -> None:
    """Prices of multiply-adds hold between sizes that were seen; beyond them nobody knows."""
    space = get_space("ofa-mbv3-w1.0")
    genes = random_genes(space, 30, np.random.default_rng(0))
    genes[:, columns(space).resolution] = np.resize([5, 9], 30)
    times = quantities(space, genes) @ (1 / quantities(space, genes).mean(axis=0))
    table = fitted_table(space, WholeNets(genes, times, "f", "ms"), CONDITIONS)
    assert table.resolutions == space.resolutions[5:10]
    everywhere = random_genes(space, 200, np.random.default_rng(1))
    is_covered = np.isin(everywhere[:, columns(space).resolution], range(5, 10))
    np.testing.assert_array_equal(np.isfinite(table.predict_many(space, everywhere)), is_covered)


def test_check_gives_an_imported_table_its_error() -> None:
    """Ten per cent too slow everywhere is found as ten per cent, and as bias."""
    own = nets(40, seed=3)
    resolution = DIGITS.resolutions[0]
    keys = pieces_at(DIGITS, resolution)
    table = imported_table(DIGITS, {key: Entry(0.1, 0.0, 1) for key in keys}, (resolution,), CONDITIONS, {"file": "x"})
    assert table.error is None
    times = table.predict_many(DIGITS, own.genes) / 1.1
    found = checked(table, DIGITS, replace(own, measured_ms=times))
    assert found.error is not None
    assert found.error.mape == pytest.approx(0.1)
    assert found.error.bias == pytest.approx(0.1)
    assert found.error.nets == len(found.held_out) == 40
    assert found.provenance["checked_with"] == "nets.csv"
    with pytest.raises(LatencyTableError, match="has 5 subnets; expected at least 10"):
        checked(table, DIGITS, replace(own, genes=own.genes[:5], measured_ms=times[:5]))


def test_check_names_the_resolutions_that_the_table_lacks() -> None:
    """An error over part of the subnets would be read as that of all."""
    space = get_space("ofa-mbv3-w1.0")
    entries = {key: Entry(0.1, 0.0, 1) for key in pieces_at(space, 128)}
    table = imported_table(space, entries, (128,), CONDITIONS, {})
    genes = random_genes(space, 12, np.random.default_rng(0))
    genes[:, columns(space).resolution] = [0] * 9 + [3, 3, 7]
    with pytest.raises(LatencyTableError, match=r"3 of 12 subnets .*140 px \(2\), 156 px \(1\)"):
        checked(table, space, WholeNets(genes, np.ones(12), "f.csv", "ms"))
