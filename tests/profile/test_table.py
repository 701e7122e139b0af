"""A measured table holds what was measured: every piece, honest checks, the device."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from deps.ground.console import Story
from deps.ground.errors import LatencyTableError
from deps.profile.backends.base import Backend
from deps.profile.kit import Kit
from deps.profile.latency import LatencyTable
from deps.profile.measure import MeasureSettings
from deps.profile.table import measure_kit
from deps.supernet.plan import plan


def test_checks_repeat_from_the_entries(table: LatencyTable, kit: Kit) -> None:
    """The stated error is that of the entries in the file, not of some fit that was thrown away."""
    held_out = [kit.archs[net.name] for net in kit.at(8, "held_out")]
    assert table.error is not None
    assert len(table.held_out) == len(held_out) == table.error.nets
    for check, arch in zip(table.held_out, held_out, strict=True):
        assert table.predict(kit.space, arch) == pytest.approx(check.predicted_ms)
        assert check.flops == sum(piece.macs for piece in plan(kit.space, arch).pieces())
        assert check.measured_ms > 0
    relative = [abs(check.predicted_ms / check.measured_ms - 1) for check in table.held_out]
    assert table.error.mape == pytest.approx(sum(relative) / len(relative))
    assert table.error.worst == pytest.approx(max(relative))
    assert 0 < table.error.repeatability < 0.5


def test_table_says_where_and_how_it_was_measured(table: LatencyTable, backend: Backend) -> None:
    """A table without its device is a number without a unit."""
    assert table.device == backend.facts()
    assert table.device["cores"] == os.cpu_count()
    assert table.device["onnxruntime"]
    (session,) = table.sessions
    assert session.resolution == 8
    assert session.rounds >= 6
    assert session.clock in ("wall", "cpu")
    assert session.source == "nodes"
    assert session.seconds > 0
    assert all(entry.runs >= 2 for entry in table.entries.values())
    assert table.provenance["kit_seed"] == 0
    assert table.provenance["state_before"]["load"]


def test_larger_nets_take_longer(table: LatencyTable) -> None:
    """Whatever the noise, four times the work shows: predictions and measurements come from real runs."""
    by_flops = sorted(table.held_out, key=lambda check: check.flops)
    assert by_flops[0].measured_ms < by_flops[-1].measured_ms
    assert by_flops[0].predicted_ms < by_flops[-1].predicted_ms


def test_pieces_alone_make_a_table_too(kit: Kit, backend: Backend, quick: MeasureSettings, table: LatencyTable) -> None:
    """A runtime without times of nodes times pieces alone; the anchors then say what they take inside a net."""
    isolated = measure_kit(kit, backend, replace(quick, is_isolated=True), Story(quiet=True))
    assert isolated.sessions[0].source == "blocks"
    assert set(isolated.entries) == set(table.entries)
    ratios = sorted(a.predicted_ms / b.predicted_ms for a, b in zip(isolated.held_out, table.held_out, strict=True))
    assert 0.3 < ratios[len(ratios) // 2] < 3


def test_kit_without_blocks_says_how_to_get_them(kit: Kit, backend: Backend, quick: MeasureSettings) -> None:
    """Blocks make a kit larger, so they are written only for runtimes that need them."""
    nets = tuple(net for net in kit.manifest.nets if net.role != "block")
    poorer = replace(kit, manifest=replace(kit.manifest, nets=nets))
    with pytest.raises(LatencyTableError, match=r"nor blocks at 8 px.*--blocks"):
        measure_kit(poorer, backend, replace(quick, is_isolated=True), Story(quiet=True))
