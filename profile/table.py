"""Measure a kit on this device and make the latency table of it.

Relies on ``session.py`` for times, on ``fit.py`` for what they mean, and on no torch and no onnx.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deps.ground.console import Story
from deps.ground.errors import LatencyTableError
from deps.ground.provenance import provenance
from deps.profile.backends.base import Backend
from deps.profile.fingerprint import state
from deps.profile.fit import Fit, features, fit, flops_line
from deps.profile.kit import REWRITE, Kit
from deps.profile.latency import Check, Entry, LatencyTable, Session, TableError, table_error
from deps.profile.measure import MeasureSettings
from deps.profile.pieces import joined_pieces
from deps.profile.session import Part, measure_parts


def measure_kit(
    kit: Kit, backend: Backend, settings: MeasureSettings, story: Story, journal: Path | None = None
) -> LatencyTable:
    """Return the latency table of this device, measured with the nets of a kit.

    Args:
        kit: the nets.
        backend: runs them.
        settings: conditions and limits.
        story: where progress is shown.
        journal: where finished groups are remembered; a later call with the same file goes on from there.

    Raises:
        LatencyTableError: the machine is too noisy, or the kit is not complete; the message says what to do.
    """
    before = state()
    parts = measure_parts(kit, backend, settings, story, journal)
    table = table_of(kit, backend, settings, parts)
    return replace(table, provenance={**table.provenance, "state_before": before, "state_after": state()})


def table_of(kit: Kit, backend: Backend, settings: MeasureSettings, parts: Sequence[Part]) -> LatencyTable:
    """Return the table that measured parts make, with its error on their held-out nets."""
    fitted = [_Fitted.of(kit, part) for part in parts]
    sessions = tuple(one.session for one in fitted)
    entries = _joined([one.entries for one in fitted])
    checks = tuple(itertools.chain.from_iterable(checks_of(kit, part, entries, sessions) for part in parts))
    return LatencyTable(
        target=kit.manifest.target,
        backend=backend.name,
        precision=settings.conditions.precision,
        threads=settings.conditions.threads,
        batch=settings.conditions.batch,
        space=kit.space.name,
        entries=entries,
        sessions=sessions,
        error=error_of(kit, parts, checks),
        held_out=checks,
        device=backend.facts(),
        provenance={**provenance(), "kit_seed": kit.manifest.seed},
    )


@dataclass(frozen=True, slots=True)
class _Fitted:
    """One resolution: its entries, and how they came about."""

    entries: dict[str, Entry]
    session: Session

    @classmethod
    def of(cls, kit: Kit, part: Part) -> _Fitted:
        if not part.pieces:
            raise LatencyTableError(
                f"{kit.folder} has neither designed nets that this runtime can look into nor blocks at "
                f"{part.resolution} px; {REWRITE} --blocks"
            )
        pieces = joined_pieces(part.pieces)
        anchors = list(kit.at(part.resolution, "anchor"))
        chains = [list(kit.plan_of(net).pieces()) for net in anchors]
        form = fit(features(pieces, chains), np.array([part.nets[net.name].ms for net in anchors]), pieces)
        return cls({key: form.entry(piece) for key, piece in pieces.items()}, _session(part, form))


def _session(part: Part, form: Fit) -> Session:
    return Session(
        resolution=part.resolution,
        overhead_ms=form.overhead_ms,
        scale=form.scale,
        per_node_ms=form.per_node_ms,
        clock=part.clock,
        clean_share=part.clean_share,
        unsteadiness=part.unsteadiness,
        rounds=int(np.median([time.runs for time in part.nets.values()])),
        source=part.source,
        seconds=part.seconds,
        statistic=part.statistic,
    )


def checks_of(kit: Kit, part: Part, entries: Mapping[str, Entry], sessions: Sequence[Session]) -> tuple[Check, ...]:
    """Return each held-out net of a resolution, as predicted and as measured."""
    (overhead_ms,) = [session.overhead_ms for session in sessions if session.resolution == part.resolution]
    checks = []
    for net in kit.at(part.resolution, "held_out"):
        pieces = list(kit.plan_of(net).pieces())
        predicted = overhead_ms + sum(entries[piece.key].median_ms for piece in pieces)
        flops = sum(piece.macs for piece in pieces)
        checks.append(Check(part.resolution, flops, predicted, part.nets[net.name].ms))
    return tuple(checks)


def error_of(kit: Kit, parts: Sequence[Part], checks: Sequence[Check]) -> TableError:
    """Return how far checks are off, beside a line through the multiply-adds of the anchors of each resolution."""
    line: list[float] = []
    unsure: list[float] = []
    for part in parts:
        anchors = list(kit.at(part.resolution, "anchor"))
        flops = np.array([float(sum(piece.macs for piece in kit.plan_of(net).pieces())) for net in anchors])
        at = np.array([float(check.flops) for check in checks if check.resolution == part.resolution])
        line += flops_line(flops, np.array([part.nets[net.name].ms for net in anchors]), at).tolist()
        unsure += [part.nets[net.name].uncertainty for net in kit.at(part.resolution, "held_out")]
    measured, predicted = [check.measured_ms for check in checks], [check.predicted_ms for check in checks]
    return table_error(measured, predicted, line, repeatability=float(np.mean(unsure)))


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
