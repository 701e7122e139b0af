"""A check asks the device again, and tells a table's error as it is now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deps.ground.console import Story
from deps.ground.errors import LatencyTableError
from deps.profile.backends.base import Backend
from deps.profile.check import check_table, require_device
from deps.profile.kit import Kit
from deps.profile.latency import LatencyTable
from deps.profile.measure import MeasureSettings


def test_check_measures_again_and_draws(
    table: LatencyTable, kit: Kit, backend: Backend, quick: MeasureSettings, tmp_path: Path
) -> None:
    """Every number stands beside the FLOPs line, and every held-out net in the picture."""
    picture = tmp_path / "t.svg"
    report = check_table(table, tmp_path / "t.json", kit, backend, quick, Story(quiet=True), picture)
    assert report.table.entries == table.entries
    assert report.table.error is not None
    assert table.error is not None
    assert report.table.error.nets == table.error.nets
    assert [check.predicted_ms for check in report.table.held_out] == [check.predicted_ms for check in table.held_out]
    assert [check.measured_ms for check in report.table.held_out] != [check.measured_ms for check in table.held_out]
    assert picture.read_text().count("<circle") == table.error.nets
    assert "FLOPs line" in report.to_text()
    assert "predicted, ms" in report.to_text()
    assert report.to_dict()["stated_mape"] == table.error.mape
    # Predictions twice as high are a drift of a half, and no error but that.
    double = {key: replace(entry, median_ms=2 * entry.median_ms) for key, entry in table.entries.items()}
    sessions = tuple(replace(one, overhead_ms=2 * one.overhead_ms) for one in table.sessions)
    doubled = replace(table, entries=double, sessions=sessions)
    again = check_table(doubled, tmp_path / "t.json", kit, backend, quick, Story(quiet=True))
    assert again.table.error is not None
    assert again.drift < 0.8
    assert again.mape_without_drift < again.table.error.mape


def test_table_of_another_device_is_not_checked_here(table: LatencyTable, backend: Backend, tmp_path: Path) -> None:
    """Numbers of one processor say nothing of another; the message names what differs."""
    other = replace(table, device={**table.device, "cpu": "Cortex-A78"})
    with pytest.raises(LatencyTableError, match=r"another device.*cpu 'Cortex-A78'"):
        require_device(other, tmp_path / "t.json", backend)
    require_device(table, tmp_path / "t.json", backend)
