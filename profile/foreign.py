"""Latency tables whose times come from elsewhere: fitted to whole subnets, or checked against them.

Relies on ``whole_fit.py`` for the model and on ``latency.py`` for the table that everything else reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deps.ground.errors import LatencyTableError
from deps.ground.provenance import provenance
from deps.profile.additive import slots
from deps.profile.designs import designed_genes
from deps.profile.fit import flops_line
from deps.profile.flops import cost_tables
from deps.profile.latency import Check, Entry, LatencyTable, Session, table_error
from deps.profile.whole_fit import MIN_SUBNETS, Prices, cross_validate, fit_prices, quantities
from deps.profile.whole_nets import WholeNets
from deps.supernet.pieces import Piece
from deps.supernet.plan import plan
from deps.supernet.sampling import columns, decode
from deps.supernet.space import SearchSpace


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What the user says of times that were taken elsewhere."""

    target: str
    batch: int = 1
    threads: int = 1
    backend: str = "unknown"
    precision: str = "unknown"
    device: str = "unknown"


def pieces_at(space: SearchSpace, resolution: int) -> dict[str, Piece]:
    """Return every piece that a subnet of this resolution can have, by its key."""
    archs = decode(space, designed_genes(space, resolution))
    return {piece.key: piece for arch in archs for piece in plan(space, arch).pieces()}


def session_elsewhere(resolution: int, overhead_ms: float) -> Session:
    """Return the session of times that deps did not take: nothing is known but the overhead of a run."""
    return Session(
        resolution=resolution,
        overhead_ms=overhead_ms,
        scale=1.0,
        per_node_ms=0.0,
        clock="elsewhere",
        clean_share=None,
        unsteadiness=None,
        rounds=0,
    )


def fitted_table(space: SearchSpace, nets: WholeNets, conditions: Conditions, *, seed: int = 0) -> LatencyTable:
    """Return a table whose pieces are priced so that they explain times of whole subnets.

    It covers the resolutions from the least to the largest that was measured. Its error is that of cross-validation:
    each subnet is predicted by a model that never saw it. The spread of an entry is half the distance between the
    quartiles of these models, and its runs are how often the measured subnets have the piece.

    Raises:
        LatencyTableError: there are too few distinct subnets.
        MissingExtraError: scipy is not installed.
    """
    rows_NQ = quantities(space, nets.genes)
    left_out = cross_validate(nets.genes, rows_NQ, nets.measured_ms, seed=seed)
    model = fit_prices(rows_NQ, nets.measured_ms, seed=seed)
    seen = _times_seen(space, nets)
    resolution_N = np.array(space.resolutions)[nets.genes[:, columns(space).resolution]]
    covered = [r for r in space.resolutions if resolution_N.min() <= r <= resolution_N.max()]
    entries: dict[str, Entry] = {}
    for resolution in covered:
        for key, piece in pieces_at(space, resolution).items():
            if key not in entries:
                entries[key] = _entry(model, left_out.models, piece, seen[key])
    flops_N = cost_tables(space)[0](nets.genes)
    checks = tuple(
        Check(int(resolution), int(flops), float(predicted), float(measured))
        for resolution, flops, predicted, measured in zip(
            resolution_N, flops_N, left_out.predicted_ms, nets.measured_ms, strict=True
        )
    )
    return LatencyTable(
        **_told(conditions),
        space=space.name,
        entries=entries,
        sessions=tuple(session_elsewhere(resolution, model.overhead_ms) for resolution in covered),
        error=table_error(nets.measured_ms.tolist(), left_out.predicted_ms.tolist(), left_out.flops_line_ms.tolist()),
        held_out=checks,
        provenance={
            **provenance(),
            "file": nets.file,
            "column": nets.column,
            "subnets": len(nets.measured_ms),
            "error_from": "cross-validation: each subnet predicted by a model fitted without it",
            "overhead_ms": model.overhead_ms,
            "prices_ms": model.of,
            "pull": model.pull,
            "seed": seed,
        },
        origin="fitted",
    )


def imported_table(
    space: SearchSpace,
    entries: dict[str, Entry],
    resolutions: tuple[int, ...],
    conditions: Conditions,
    source: Mapping[str, Any],
) -> LatencyTable:
    """Return a table of pieces that others timed; its error is unknown until ``checked`` compares it.

    Args:
        space: the search space.
        entries: the time of each piece, by its key.
        resolutions: those at which every piece of the space has an entry.
        conditions: what the user says of the times.
        source: what the table's provenance shall say of the file.
    """
    return LatencyTable(
        **_told(conditions),
        space=space.name,
        entries=entries,
        sessions=tuple(session_elsewhere(resolution, 0.0) for resolution in resolutions),
        error=None,
        held_out=(),
        provenance={**provenance(), **source},
        origin="imported",
    )


def checked(table: LatencyTable, space: SearchSpace, nets: WholeNets) -> LatencyTable:
    """Return the table with its error on whole subnets that others measured.

    The line through the multiply-adds that it is compared with is fitted to these subnets, each left out in turn.

    Raises:
        LatencyTableError: there are too few subnets, or some are of resolutions that the table does not hold.
    """
    if len(nets.measured_ms) < MIN_SUBNETS:
        raise LatencyTableError(
            f"{nets.file} has {len(nets.measured_ms)} subnets; expected at least {MIN_SUBNETS} to check a table by"
        )
    resolution_N = np.array(space.resolutions)[nets.genes[:, columns(space).resolution]]
    unknown = Counter(int(r) for r in resolution_N if r not in table.resolutions)
    if unknown:
        counts = ", ".join(f"{resolution} px ({count})" for resolution, count in sorted(unknown.items()))
        raise LatencyTableError(
            f"{sum(unknown.values())} of {len(resolution_N)} subnets of {nets.file} are of resolutions that the table "
            f"does not hold: {counts}; leave them out, or import these resolutions too"
        )
    predicted = table.predict_many(space, nets.genes)
    flops_N = cost_tables(space)[0](nets.genes)
    line = []
    for i in range(len(flops_N)):
        others = np.arange(len(flops_N)) != i
        line.append(float(flops_line(flops_N[others], nets.measured_ms[others], flops_N[i : i + 1])[0]))
    checks = tuple(
        Check(int(r), int(flops), float(ours), float(theirs))
        for r, flops, ours, theirs in zip(resolution_N, flops_N, predicted, nets.measured_ms, strict=True)
    )
    return replace(
        table,
        error=table_error(nets.measured_ms.tolist(), predicted.tolist(), line),
        held_out=checks,
        provenance={**table.provenance, "checked_with": nets.file, "checked_column": nets.column},
    )


def _told(conditions: Conditions) -> dict[str, Any]:
    return {
        "target": conditions.target,
        "backend": conditions.backend,
        "precision": conditions.precision,
        "threads": conditions.threads,
        "batch": conditions.batch,
        "device": {"name": conditions.device},
    }


def _entry(model: Prices, others: tuple[Prices, ...], piece: Piece, nets: int) -> Entry:
    lower, upper = np.percentile([other.piece_ms(piece) for other in others], [25, 75])
    return Entry(model.piece_ms(piece), float(upper - lower) / 2, nets)


def _times_seen(space: SearchSpace, nets: WholeNets) -> Counter[str]:
    """Return how often each piece occurs in the measured subnets."""
    seen: Counter[str] = Counter()
    for slot in slots(space):
        counts = np.bincount(slot.numbers(nets.genes), minlength=len(slot.pieces) + 1)
        for piece, count in zip(slot.pieces, counts[1:].tolist(), strict=True):
            seen[piece.key] += count
    return seen
