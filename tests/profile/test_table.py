"""A measured table holds what was measured: every piece, honest checks, the device."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from deps.ground.console import Story
from deps.ground.errors import LatencyTableError
from deps.profile.kit import Kit
from deps.profile.latency import LatencyTable
from deps.profile.measure import MIN_CLEAN, MeasureSettings
from deps.profile.table import fingerprint, measure_kit
from deps.supernet.plan import plan


def test_checks_repeat_from_the_entries(table: LatencyTable, kit: Kit) -> None:
    """The stated error is that of the entries in the file, not of some fit that was thrown away."""
    assert table.error is not None
    held_out = [arch for net, arch in kit.at(8) if net.role == "held_out"]
    assert len(table.held_out) == len(held_out) == table.error.nets
    for check, arch in zip(table.held_out, held_out, strict=True):
        assert table.predict(kit.space, arch) == pytest.approx(check.predicted_ms)
        assert check.flops == sum(piece.macs for piece in plan(kit.space, arch).pieces())
        assert check.measured_ms > 0
    relative = [abs(check.predicted_ms / check.measured_ms - 1) for check in table.held_out]
    assert table.error.mape == pytest.approx(sum(relative) / len(relative))
    assert table.error.worst == pytest.approx(max(relative))


def test_table_says_where_and_how_it_was_measured(table: LatencyTable) -> None:
    """A table without its device is a number without a unit."""
    assert table.device == fingerprint()
    assert table.device["cores"] == os.cpu_count()
    assert table.device["onnxruntime"]
    (session,) = table.sessions
    assert session.resolution == 8
    assert session.rounds == MIN_CLEAN
    assert session.clock in ("wall", "cpu")
    assert all(entry.runs >= MIN_CLEAN // 2 for entry in table.entries.values())
    assert table.provenance["kit_seed"] == kit_seed(table)


def kit_seed(table: LatencyTable) -> int:
    return int(table.provenance["kit_seed"])


def test_larger_nets_take_longer(table: LatencyTable) -> None:
    """Whatever the noise, four times the work shows: predictions and measurements come from real runs."""
    by_flops = sorted(table.held_out, key=lambda check: check.flops)
    assert by_flops[0].measured_ms < by_flops[-1].measured_ms
    assert by_flops[0].predicted_ms < by_flops[-1].predicted_ms


def test_kit_without_anchors_is_refused(kit: Kit) -> None:
    """Without them, profiled times would be passed off as times of whole nets."""
    roles = [net.role for net in kit.manifest.nets]
    kept = [i for i, role in enumerate(roles) if role != "anchor"][:12]
    nets = tuple(kit.manifest.nets[i] for i in kept)
    poorer = replace(kit, manifest=replace(kit.manifest, nets=nets), archs=tuple(kit.archs[i] for i in kept))
    limits = MeasureSettings(min_rounds=MIN_CLEAN, max_rounds=MIN_CLEAN, max_unsteadiness=float("inf"))
    with pytest.raises(LatencyTableError, match="has no anchor nets at 8 px"):
        measure_kit(poorer, limits, Story(quiet=True))
