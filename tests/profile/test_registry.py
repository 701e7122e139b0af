"""Tables are found where they lie, and used only where they mean something."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deps.profile.latency import LatencyTable, find_table
from deps.profile.registry import FOLDER_VARIABLE, SHIPPED, TablesReport, choose_table, find_tables
from deps.supernet import get_space


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    return tmp_path


def test_tables_are_listed_with_device_and_error(table: LatencyTable, elsewhere: Path) -> None:
    """A person sees at one glance what can be foretold, and how well; other files are named as such."""
    table.save(elsewhere / "tables" / "mine.json")
    (elsewhere / "tables" / "broken.json").write_text("{")
    report = TablesReport(tuple(find_tables()))
    text = report.to_text()
    assert "tables/mine.json" in text
    assert table.device["cpu"] in text
    assert "tables/broken.json is no table" in text
    rows = {row["path"]: row for row in report.to_dict()["tables"]}
    assert rows["tables/mine.json"]["target"] == "cpu"
    assert rows["tables/broken.json"]["is_table"] is False


def test_own_table_of_the_run_comes_first(
    table: LatencyTable, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured for a run is what its search uses; the user's folder comes next."""
    space, run = get_space("digits"), elsewhere / "runs" / "a"
    assert choose_table(run, "cpu", space) == find_table(run, "cpu")
    named = elsewhere / "named"
    monkeypatch.setenv(FOLDER_VARIABLE, str(named))
    table.save(named / "t.json")
    assert choose_table(run, "cpu", space) == named / "t.json"
    table.save(find_table(run, "cpu"))
    assert choose_table(run, "cpu", space) == find_table(run, "cpu")


def test_table_of_another_processor_or_space_is_not_taken(table: LatencyTable, elsewhere: Path) -> None:
    """The target cpu is any processor, so only the fingerprint tells whether a table means this one."""
    run = elsewhere / "runs" / "a"
    path = elsewhere / "tables" / "t.json"
    replace(table, device={**table.device, "cpu": "Cortex-A78"}).save(path)
    assert choose_table(run, "cpu", get_space("digits")) == find_table(run, "cpu")
    replace(table, device={"gpu_name": "Orin"}, target="jetson-orin").save(path)
    assert choose_table(run, "jetson-orin", get_space("digits")) == Path("tables/t.json")
    assert choose_table(run, "jetson-orin", get_space("ofa-mbv3-w1.0")) == find_table(run, "jetson-orin")


def test_shipped_tables_were_measured(elsewhere: Path) -> None:
    """Never ship a table that nobody measured."""
    for path in sorted(SHIPPED.glob("*.json")):
        shipped = LatencyTable.load(path)
        assert shipped.origin == "measured"
        assert shipped.error is not None
        assert shipped.beats_flops_line
        assert shipped.held_out
        assert shipped.provenance["commit"]
        assert path.with_suffix(".md").exists()
        json.dumps(shipped.to_dict())
