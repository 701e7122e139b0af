"""Measure a kit on this machine and make the latency table of it.

Relies on ``measure.py`` for times, on ``fit.py`` for what they mean, and on no torch and no onnx.
"""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from deps.ground.console import Story
from deps.ground.errors import LatencyTableError
from deps.ground.provenance import cpu_name, provenance
from deps.profile.fit import Fit, PieceTime, features, fit, flops_line, piece_times
from deps.profile.kit import Kit, KitNet
from deps.profile.latency import Check, Entry, LatencyTable, Session, TableError, table_error
from deps.profile.measure import Measured, MeasureSettings, Net, measure
from deps.supernet.arch import ArchSpec
from deps.supernet.plan import plan


def measure_kit(kit: Kit, settings: MeasureSettings, story: Story) -> LatencyTable:
    """Return the latency table of this machine, measured with the nets of a kit; one session a resolution.

    Raises:
        LatencyTableError: the machine is too noisy, or the kit is not complete; the message says what to do.
    """
    parts = [_measure_resolution(kit, resolution, settings, story) for resolution in kit.resolutions]
    checks = tuple(itertools.chain.from_iterable(part.checks for part in parts))
    line = list(itertools.chain.from_iterable(part.line_ms for part in parts))
    return LatencyTable(
        target=kit.manifest.target,
        backend="onnxruntime",
        precision=kit.manifest.precision,
        threads=settings.threads,
        batch=settings.batch,
        space=kit.space.name,
        entries=_joined([part.entries for part in parts]),
        sessions=tuple(part.session for part in parts),
        error=_error(checks, line),
        held_out=checks,
        device=fingerprint(),
        provenance={**provenance(), "kit_seed": kit.manifest.seed},
    )


def fingerprint() -> dict[str, Any]:
    """Return what identifies this machine as a place to measure on: what a time depends on and what stays."""
    facts: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "onnxruntime": version("onnxruntime"),
    }
    frequency = Path("/sys/devices/system/cpu/cpu0/cpufreq")
    for name in ("scaling_governor", "scaling_max_freq"):
        try:
            facts[name] = (frequency / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
    return facts


class _Part:
    """What one resolution adds to a table."""

    def __init__(
        self, entries: dict[str, Entry], session: Session, checks: Sequence[Check], line_ms: Sequence[float]
    ) -> None:
        self.entries = entries
        self.session = session
        self.checks = checks
        self.line_ms = line_ms


def _measure_resolution(kit: Kit, resolution: int, settings: MeasureSettings, story: Story) -> _Part:
    nets = list(kit.at(resolution))
    measured = measure([_net(kit, net, arch) for net, arch in nets], settings, story, f"{resolution} px")
    roles = {
        role: [i for i, (net, _) in enumerate(nets) if net.role == role] for role in ("designed", "anchor", "held_out")
    }
    if empty := [role for role, positions in roles.items() if not positions]:
        raise LatencyTableError(f"{kit.folder} has no {empty[0]} nets at {resolution} px; write the kit again")

    chains = [list(plan(kit.space, arch).pieces()) for _, arch in nets]
    flops = np.array([float(sum(piece.macs for piece in chain)) for chain in chains])
    pieces = piece_times(
        [(plan(kit.space, nets[i][1]), measured.nodes[i].names, measured.nodes[i].times_ms) for i in roles["designed"]]
    )
    anchors, held_out = roles["anchor"], roles["held_out"]
    anchor_ms = np.array([measured.net_ms[i] for i in anchors])
    form = fit(features(pieces, [chains[i] for i in anchors]), anchor_ms, pieces)
    predicted = features(pieces, [chains[i] for i in held_out]) @ [form.scale, form.overhead_ms, form.per_node_ms]
    line = flops_line(flops[anchors], anchor_ms, flops[held_out])
    checks = [
        Check(resolution, int(flops[i]), float(ms), measured.net_ms[i])
        for i, ms in zip(held_out, predicted, strict=True)
    ]
    _tell(story, resolution, measured, _error(checks, line.tolist()))
    return _Part(_entries(pieces, form), _session(resolution, form, measured), checks, line.tolist())


def _net(kit: Kit, net: KitNet, arch: ArchSpec) -> Net:
    size = 4 * sum(piece.params for piece in plan(kit.space, arch).pieces())
    return Net(kit.folder / net.file, size, is_profiled=net.role == "designed")


def _entries(pieces: Mapping[str, PieceTime], form: Fit) -> dict[str, Entry]:
    return {key: form.entry(piece) for key, piece in pieces.items()}


def _session(resolution: int, form: Fit, measured: Measured) -> Session:
    return Session(
        resolution=resolution,
        overhead_ms=form.overhead_ms,
        scale=form.scale,
        per_node_ms=form.per_node_ms,
        clock=measured.clock,
        clean_share=measured.clean_share,
        unsteadiness=measured.unsteadiness,
        rounds=measured.rounds,
    )


def _error(checks: Sequence[Check], line_ms: Sequence[float]) -> TableError:
    return table_error([check.measured_ms for check in checks], [check.predicted_ms for check in checks], line_ms)


def _tell(story: Story, resolution: int, measured: Measured, error: TableError) -> None:
    story.say(
        f"{resolution} px: error {error.mape:.1%} (FLOPs line {error.flops_line_mape:.1%}) on {error.nets} held-out "
        f"nets; {measured.rounds} rounds, {measured.clean_share:.0%} undisturbed, repeats within "
        f"{measured.unsteadiness:.1%}"
    )


def _joined(parts: Sequence[Mapping[str, Entry]]) -> dict[str, Entry]:
    """Return all entries; a piece that stood in nets of several resolutions gets the mean, weighted by runs."""
    joined: dict[str, Entry] = {}
    for key in dict.fromkeys(itertools.chain.from_iterable(parts)):
        seen = [part[key] for part in parts if key in part]
        runs = sum(entry.runs for entry in seen)
        median = sum(entry.median_ms * entry.runs for entry in seen) / runs
        spread = sum(entry.spread_ms * entry.runs for entry in seen) / runs
        joined[key] = Entry(median, spread, runs)
    return joined
