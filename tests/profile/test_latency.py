"""A table predicts what its entries add up to, knows what it does not know, and survives the disk."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deps.ground.errors import FileError, LatencyTableError
from deps.profile.latency import Entry, LatencyTable, Session, TableError, find_table, spearman, table_error
from deps.supernet import ArchSpec, SearchSpace, get_space
from deps.supernet.plan import plan
from deps.supernet.sampling import columns, encode, random_genes
from strategies import archs

MBV3 = get_space("ofa-mbv3-w1.0")


def session(resolution: int, overhead_ms: float) -> Session:
    return Session(
        resolution=resolution,
        overhead_ms=overhead_ms,
        scale=1.0,
        per_node_ms=0.0,
        clock="wall",
        clean_share=1.0,
        unsteadiness=0.001,
        rounds=20,
    )


def exact_table(space: SearchSpace, resolutions: tuple[int, ...]) -> LatencyTable:
    """Return a table whose entries are known numbers: a time for each multiply-add, plus one for each piece."""
    from deps.profile.additive import slots

    pieces = [piece for slot in slots(space) for piece in slot.pieces]
    return LatencyTable(
        target="cpu",
        backend="onnxruntime",
        precision="fp32",
        threads=1,
        batch=1,
        space=space.name,
        entries={piece.key: Entry(piece.macs / 1e8 + 0.01, 0.001, 20) for piece in pieces},
        sessions=tuple(session(resolution, 0.1 * k) for k, resolution in enumerate(resolutions, start=1)),
        error=TableError(mape=0.02, worst=0.05, bias=0.0, spearman=0.99, flops_line_mape=0.04, nets=24),
        held_out=(),
        device={"cpu": "a test"},
        provenance={},
    )


@pytest.fixture(scope="module")
def mbv3_table() -> LatencyTable:
    return exact_table(MBV3, (128, 224))


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_prediction_is_overhead_plus_entries(mbv3_table: LatencyTable, data: st.DataObject) -> None:
    """Nothing hides between the file that users read and the number that search uses."""
    arch = replace(data.draw(archs(MBV3)), resolution=data.draw(st.sampled_from((128, 224))))
    expected = {128: 0.1, 224: 0.2}[arch.resolution]
    expected += sum(piece.macs / 1e8 + 0.01 for piece in plan(MBV3, arch).pieces())
    assert mbv3_table.predict(MBV3, arch) == pytest.approx(expected)
    assert mbv3_table.predict_many(MBV3, encode(MBV3, [arch]))[0] == pytest.approx(expected)


def test_unmeasured_resolution_is_infinitely_slow_in_bulk_and_an_error_alone(mbv3_table: LatencyTable) -> None:
    """Search must never choose what nobody measured; a person must be told what to do."""
    genes = random_genes(MBV3, 500, np.random.default_rng(0))
    resolution = np.array(MBV3.resolutions)[genes[:, columns(MBV3).resolution]]
    times = mbv3_table.predict_many(MBV3, genes)
    assert (np.isfinite(times) == np.isin(resolution, (128, 224))).all()
    assert np.isfinite(times).any()
    with pytest.raises(
        LatencyTableError, match=r"no resolution 160 \(measured: 128, 224\); .*--resolution 128 224 160"
    ):
        mbv3_table.predict(MBV3, ArchSpec.smallest(MBV3, 160))


def test_table_of_another_space_says_so(mbv3_table: LatencyTable) -> None:
    """A table lies beside a run, and runs are exchanged; a wrong number would go unnoticed."""
    other = get_space("ofa-proxyless-w1.0")
    with pytest.raises(LatencyTableError, match=r"measured for ofa-mbv3-w1.0, has no entry for .* of ofa-proxyless"):
        mbv3_table.predict(other, ArchSpec.smallest(other, 128))
    genes = encode(other, [ArchSpec.smallest(other, 128)])
    assert np.isinf(mbv3_table.predict_many(other, genes)).all()


def test_two_tables_of_one_space_do_not_mix(mbv3_table: LatencyTable) -> None:
    """Lookups are remembered between calls, and must be remembered for the right table."""
    double = replace(
        mbv3_table, entries={k: replace(e, median_ms=2 * e.median_ms) for k, e in mbv3_table.entries.items()}
    )
    genes = encode(MBV3, [ArchSpec.smallest(MBV3, 128)])
    once, twice = mbv3_table.predict_many(MBV3, genes)[0], double.predict_many(MBV3, genes)[0]
    assert twice - 0.1 == pytest.approx(2 * (once - 0.1))


def test_linear_form_holds_the_overhead(mbv3_table: LatencyTable) -> None:
    """An exact solver must bound what the table predicts, not a little less."""
    form = mbv3_table.linear_form(MBV3, 224)
    genes = encode(MBV3, [ArchSpec.largest(MBV3, 224)])[0]
    where = columns(MBV3)
    total = form.constant + sum(
        block[genes[where.kernels.start + b], genes[where.expands.start + b]] for b, block in enumerate(form.blocks)
    )
    assert total == pytest.approx(mbv3_table.predict(MBV3, ArchSpec.largest(MBV3, 224)))
    with pytest.raises(LatencyTableError, match="no resolution 160"):
        mbv3_table.linear_form(MBV3, 160)


def test_error_is_stated_in_milliseconds(mbv3_table: LatencyTable) -> None:
    """Search prints ``4.9 ms ± 0.1`` from this."""
    assert mbv3_table.error_ms(5.0) == pytest.approx(0.1)


def test_measured_table_survives_the_disk(table: LatencyTable, tmp_path: Path) -> None:
    """What was measured for half a minute is read again years later, to the last bit."""
    path = tmp_path / "latency" / "cpu.json"
    table.save(path)
    assert LatencyTable.load(path) == table
    assert json.loads(path.read_text())["schema_version"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["cpu.json"]


def test_damaged_tables_are_refused_by_what_is_wrong(table: LatencyTable, tmp_path: Path) -> None:
    """A table decides what is shipped; one that was half copied or edited must not be believed."""
    path = tmp_path / "cpu.json"
    good = json.loads(json.dumps(table.to_dict()))
    key = next(iter(good["entries"]))

    def expect(error: type[Exception], match: str, text: str) -> None:
        path.write_text(text)
        with pytest.raises(error, match=match):
            LatencyTable.load(path)

    whole = json.dumps(good)
    expect(FileError, "damaged: not valid JSON", whole[: len(whole) // 2])
    expect(FileError, "schema_version 99", json.dumps({**good, "schema_version": 99}))
    expect(LatencyTableError, "threads is 'two'.*--overwrite", json.dumps({**good, "threads": "two"}))
    expect(LatencyTableError, "entries is missing", json.dumps({k: v for k, v in good.items() if k != "entries"}))
    expect(LatencyTableError, "sessions is empty", json.dumps({**good, "sessions": []}))
    bad = {**good, "entries": {**good["entries"], key: {"median_ms": -1.0, "spread_ms": 0.0, "runs": 3}}}
    expect(LatencyTableError, r"median_ms is -1\.0; expected at least 0", json.dumps(bad))
    with pytest.raises(FileError, match="does not exist"):
        LatencyTable.load(tmp_path / "none.json")


@given(
    st.lists(
        st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)).map(lambda pair: (round(pair[0], 1), round(pair[1], 1))),
        min_size=3,
        max_size=40,
    )
)
@settings(deadline=None)
def test_rank_correlation_is_scipys(pairs: list[tuple[float, float]]) -> None:
    """A device has no scipy; ties share ranks there too."""
    x, y = (np.array(values) for values in zip(*pairs, strict=True))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert spearman(x, y) == 0
    else:
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


def test_errors_are_what_their_names_say() -> None:
    """Signs and shares by hand: 10 % too high, 20 % too low."""
    error = table_error([10.0, 10.0], [11.0, 8.0], [10.0, 10.0])
    assert error.mape == pytest.approx(0.15)
    assert error.worst == pytest.approx(0.2)
    assert error.bias == pytest.approx(-0.05)
    assert error.flops_line_mape == 0
    assert error.nets == 2


def test_verdict_follows_the_flops_line(mbv3_table: LatencyTable) -> None:
    """A table that does not beat a straight line is not worth having, and says so loudly."""
    assert mbv3_table.beats_flops_line
    worse = replace(mbv3_table, error=replace(mbv3_table.error, mape=0.05))
    assert not worse.beats_flops_line


def test_report_names_conditions_and_error(table: LatencyTable) -> None:
    """A number without its conditions is worth nothing."""
    text = table.to_text()
    assert table.error is not None
    assert "onnxruntime, fp32, 1 thread, batch 1" in text
    assert "digits at 8 px" in text
    assert f"{table.error.mape:.1%} on average" in text
    assert f"{table.error.flops_line_mape:.1%} on average" in text


def test_unknown_error_is_said_and_never_a_number(mbv3_table: LatencyTable, tmp_path: Path) -> None:
    """A table from elsewhere was never compared with whole nets here; its predictions must not look checked."""
    unknown = replace(mbv3_table, error=None, origin="imported", provenance={"file": "note10.yaml"})
    assert unknown.error_ms(5.0) is None
    assert unknown.beats_flops_line is None
    assert "unknown: no held-out measurements" in unknown.to_text()
    assert "imported from note10.yaml" in unknown.to_text()
    unknown.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == unknown


def test_table_of_a_run_lies_in_the_run() -> None:
    """deps-profile writes where deps-extract reads."""
    assert find_table(Path("runs/digits"), "cpu") == Path("runs/digits/latency/cpu.json")


def test_every_subnet_of_the_measured_space_has_a_time(table: LatencyTable) -> None:
    """The designs visit every piece, so a measured table has no holes."""
    space = get_space("digits")
    times = table.predict_many(space, random_genes(space, 3000, np.random.default_rng(1)))
    assert np.isfinite(times).all()
    assert (times > 0).all()
    assert math.isfinite(table.predict(space, ArchSpec.smallest(space)))
