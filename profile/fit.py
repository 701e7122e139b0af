"""From the times of nets and nodes to the times of pieces: group, scale on the anchors, judge by the held-out nets.

Relies on nodes being named after the pieces they belong to. Pure arithmetic: nothing here runs a net.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
    """Time of its nodes together in an undisturbed run; of a piece that was timed alone, its time."""

    spread_ms: float
    """Half the distance between the quartiles of its runs."""

    num_nodes: float
    runs: int
    least_ms: float = 0.0
    """Time of its cheapest node, where the runtime's clock is in it; else 0."""


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

    A runtime fuses nodes and keeps the name of one of them, ``stages.0.1.expand.act_nchwc``, or of all:
    ``stages.0.1.expand.conv + PWN(stages.0.1.expand.act)``.
    What it inserts itself, ``ReorderOutput_token_3``, has a name of its own and belongs to the piece that ran before.

    Raises:
        LatencyTableError: no node is named after any piece.
    """
    # A longer name first: stages.0.10 before stages.0.1.
    ordered = sorted(piece_names, key=len, reverse=True)
    names = "|".join(map(re.escape, ordered))
    pattern = re.compile(rf"(?<![0-9A-Za-z.])(?:{names})(?![0-9A-Za-z])")
    found = [match.group() if (match := pattern.search(name)) else None for name in node_names]
    current = next((owner for owner in found if owner is not None), None)
    if current is None:
        raise LatencyTableError("the profiler names no node of the net; update onnxruntime")
    result = []
    for owner in found:
        current = owner or current
        result.append(current)
    return result


QUARTILE = 25
"""Percentile of a piece's times that is taken: of those tried, it predicted whole nets best (docs/profiling.md)."""


WORTH_A_TERM = 0.2
"""By which share another term of the fit must lower the error."""


def profiled_pieces(
    subnet: NetworkPlan, node_names: Sequence[str], times_ms: Array, *, holds_clock: bool = False
) -> dict[str, PieceTime]:
    """Return the time of each piece of one net, by its key, from the nodes of its profile.

    Args:
        subnet: the net.
        node_names: in the order in which the nodes run.
        times_ms: shape (stretches, nodes).
        holds_clock: whether the runtime's own clock is in the time of every node.

    Raises:
        LatencyTableError: no node is named after any piece.
    """
    pieces = {piece.name: piece for piece in subnet.pieces()}
    columns: dict[str, list[int]] = defaultdict(list)
    for column, owner in enumerate(owners(node_names, list(pieces))):
        columns[owner].append(column)
    if 2 * len(columns) < len(pieces):
        raise LatencyTableError(
            f"the runtime fused {len(pieces)} pieces into {len(columns)}, so their times cannot be told apart; write "
            "the kit with --blocks and measure with --isolated"
        )
    levels = np.percentile(times_ms, QUARTILE, axis=0)
    samples: dict[str, list[Array]] = defaultdict(list)
    nodes: dict[str, list[float]] = defaultdict(list)
    for name, piece in pieces.items():
        # A piece that the runtime merged into its neighbour takes no time of its own.
        samples[piece.key].append(times_ms[:, columns.get(name, [])].sum(axis=1))
        nodes[piece.key] += levels[columns.get(name, [])].tolist()
    return {
        key: _piece_time(np.concatenate(own), len(nodes[key]) / len(own), min(nodes[key], default=0.0) * holds_clock)
        for key, own in samples.items()
    }


def _piece_time(times_ms: Array, num_nodes: float, least_ms: float) -> PieceTime:
    lower, level, upper = np.percentile(times_ms, [25, QUARTILE, 75])
    return PieceTime(float(level), float(upper - lower) / 2, num_nodes, len(times_ms), least_ms)


def joined_pieces(nets: Iterable[Mapping[str, PieceTime]]) -> dict[str, PieceTime]:
    """Return the time of each piece over several nets that have it: the median of theirs."""
    seen: dict[str, list[PieceTime]] = defaultdict(list)
    for net in nets:
        for key, piece in net.items():
            seen[key].append(piece)
    return {
        key: PieceTime(
            nodes_ms=float(np.median([one.nodes_ms for one in own])),
            spread_ms=float(np.median([one.spread_ms for one in own])),
            num_nodes=float(np.mean([one.num_nodes for one in own])),
            runs=sum(one.runs for one in own),
            least_ms=float(np.median([one.least_ms for one in own])),
        )
        for key, own in seen.items()
    }


def clock_ms(pieces: Iterable[PieceTime]) -> float:
    """Return what the runtime's own clock adds to each node: all that the cheapest node of all takes.

    A runtime that notes a node's inputs and outputs while the clock still goes adds about the same to every node. The
    cheapest one moves a few numbers and does next to nothing else. No piece comes out negative; 0 where one is without
    a known cheapest node.
    """
    bounds = [min(piece.least_ms, piece.nodes_ms / piece.num_nodes) for piece in pieces if piece.num_nodes > 0]
    # A hair less, for the rounding of what is multiplied out later.
    return (1 - 1e-9) * min(bounds, default=0.0)


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

    The simplest form only scales what nodes take beyond the profiler's own clock. An overhead of a run, and a time per
    node, which may be negative because the clock takes more than its cheapest node tells, are each kept when they lower
    the error on anchors left out in turn by a fifth at least: what gains less fits the noise of the anchors, and errs
    on other nets.

    Args:
        rows_NF: what ``features`` says of the anchors.
        measured_ms: their times.
        pieces: all measured pieces, none of which may come out negative.

    Raises:
        LatencyTableError: no form has a positive scale; the measurement is worthless.
    """
    clock = clock_ms(pieces.values())
    rows_NF = rows_NF - np.outer(rows_NF[:, 2], [clock, 0.0, 0.0])
    candidates = []
    for chosen in ([0], [0, 1], [0, 2], [0, 1, 2]):
        if len(measured_ms) <= len(chosen) + 1:
            continue
        coefficients = relative_least_squares(rows_NF[:, chosen], measured_ms)
        scale, overhead, per_node = np.bincount(chosen, coefficients, minlength=3)
        form = Fit(float(scale), float(overhead), float(per_node - scale * clock))
        if scale > 0 and overhead >= 0 and all(form.entry(piece).median_ms >= 0 for piece in pieces.values()):
            error = _left_out_error(rows_NF[:, chosen], measured_ms)
            candidates.append((error / (1 - WORTH_A_TERM) ** (len(chosen) - 1), form))
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
