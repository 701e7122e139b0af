"""From the times of nets and nodes to the times of pieces: group, scale on the anchors, judge by the held-out nets.

Relies on nodes being named after the pieces they belong to. Pure arithmetic: nothing here runs a net.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deps.ground.errors import LatencyTableError
from deps.profile.latency import Entry
from deps.supernet.plan import NetworkPlan, Piece

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PieceTime:
    """What the profiler says of one piece."""

    nodes_ms: float
    """Time of its nodes together, the median over its runs."""

    spread_ms: float
    """Half the distance between the quartiles of its runs."""

    num_nodes: float
    runs: int


@dataclass(frozen=True, slots=True)
class Fit:
    """How node times become times inside an unprofiled net: ``scale * nodes_ms + per_node_ms * num_nodes``."""

    scale: float
    overhead_ms: float
    """What a run takes beside its pieces."""

    per_node_ms: float

    def entry(self, piece: PieceTime) -> Entry:
        """Return the table's entry of one piece."""
        median = self.scale * piece.nodes_ms + self.per_node_ms * piece.num_nodes
        return Entry(median, self.scale * piece.spread_ms, piece.runs)


def owners(node_names: Sequence[str], piece_names: Sequence[str]) -> list[str]:
    """Return the piece that each node belongs to, in the order in which the nodes run.

    A runtime fuses nodes and keeps the name of one of them, perhaps with a suffix: ``stages.0.1.expand.act_nchwc``.
    What it inserts itself, ``ReorderOutput_token_3``, has a name of its own and belongs to the piece that ran before.

    Raises:
        LatencyTableError: no node is named after any piece.
    """
    # A longer name first: stages.0.10 before stages.0.1.
    ordered = sorted(piece_names, key=len, reverse=True)
    pattern = re.compile("|".join(rf"{re.escape(name)}(?![0-9A-Za-z])" for name in ordered))
    found = [match.group() if (match := pattern.match(name)) else None for name in node_names]
    current = next((owner for owner in found if owner is not None), None)
    if current is None:
        raise LatencyTableError("the profiler names no node of the net; update onnxruntime")
    result = []
    for owner in found:
        current = owner or current
        result.append(current)
    return result


def piece_times(profiles: Sequence[tuple[NetworkPlan, Sequence[str], Array]]) -> dict[str, PieceTime]:
    """Return the time of each piece, by its key, from the nodes of profiled nets.

    Args:
        profiles: for each net its plan, the names of its nodes, and their times of shape (rounds, nodes).
    """
    samples: dict[str, list[Array]] = defaultdict(list)
    counts: dict[str, list[int]] = defaultdict(list)
    for subnet, names, times_ms in profiles:
        pieces = {piece.name: piece for piece in subnet.pieces()}
        columns: dict[str, list[int]] = defaultdict(list)
        for column, owner in enumerate(owners(names, list(pieces))):
            columns[owner].append(column)
        for name, piece in pieces.items():
            # A piece that the runtime merged into its neighbour takes no time of its own.
            own = columns.get(name, [])
            samples[piece.key].append(times_ms[:, own].sum(axis=1))
            counts[piece.key].append(len(own))
    result = {}
    for key, runs in samples.items():
        joined = np.concatenate(runs)
        lower, middle, upper = np.percentile(joined, [25, 50, 75])
        result[key] = PieceTime(float(middle), float(upper - lower) / 2, float(np.mean(counts[key])), len(joined))
    return result


def features(pieces: Mapping[str, PieceTime], nets: Sequence[Sequence[Piece]]) -> Array:
    """Return for each net the sum of its node times, 1, and its number of nodes: shape (nets, 3).

    Raises:
        LatencyTableError: a net has a piece that was not measured.
    """
    rows = []
    for net in nets:
        missing = [piece.key for piece in net if piece.key not in pieces]
        if missing:
            raise LatencyTableError(f"no designed net has {missing[0]!r}; write the kit again")
        own = [pieces[piece.key] for piece in net]
        rows.append([sum(p.nodes_ms for p in own), 1.0, sum(p.num_nodes for p in own)])
    return np.array(rows)


def fit(rows_NF: Array, measured_ms: Array, pieces: Mapping[str, PieceTime]) -> Fit:
    """Return the fit of node times to whole nets that predicts best what it has not seen.

    The simplest form only scales. An overhead of a run, and a time per node, which may be negative because the
    profiler's own clock adds to every node, are each kept when they lower the error on anchors left out in turn.

    Args:
        rows_NF: what ``features`` says of the anchors.
        measured_ms: their times.
        pieces: all measured pieces, none of which may come out negative.

    Raises:
        LatencyTableError: no form has a positive scale; the measurement is worthless.
    """
    candidates = []
    for chosen in ([0], [0, 1], [0, 2], [0, 1, 2]):
        if len(measured_ms) <= len(chosen) + 1:
            continue
        coefficients = relative_least_squares(rows_NF[:, chosen], measured_ms)
        scale, overhead, per_node = np.bincount(chosen, coefficients, minlength=3)
        form = Fit(float(scale), float(overhead), float(per_node))
        if scale > 0 and overhead >= 0 and all(form.entry(piece).median_ms >= 0 for piece in pieces.values()):
            candidates.append((_left_out_error(rows_NF[:, chosen], measured_ms), form))
    if not candidates:
        raise LatencyTableError(
            "node times and whole nets do not agree; stop other programs and measure again with --overwrite"
        )
    return min(candidates, key=lambda candidate: candidate[0])[1]


def relative_least_squares(rows_NF: Array, measured_ms: Array) -> Array:
    """Return coefficients that minimise the squared errors relative to the measurements."""
    weighted = rows_NF / measured_ms[:, None]
    return np.asarray(np.linalg.lstsq(weighted, np.ones(len(rows_NF)), rcond=None)[0], np.float64)


def _left_out_error(rows_NF: Array, measured_ms: Array) -> float:
    """Return the mean relative error on each net when the others are fitted."""
    errors = []
    for i in range(len(measured_ms)):
        others = np.arange(len(measured_ms)) != i
        predicted = rows_NF[i] @ relative_least_squares(rows_NF[others], measured_ms[others])
        errors.append(abs(predicted / measured_ms[i] - 1))
    return float(np.mean(errors))


def flops_line(flops: Array, measured_ms: Array, at: Array) -> Array:
    """Return what a straight line through the multiply-adds of the anchors predicts for others."""
    coefficients = relative_least_squares(np.stack([np.ones(len(flops)), flops], axis=1), measured_ms)
    return np.asarray(coefficients[0] + coefficients[1] * at)
