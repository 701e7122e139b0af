"""From the times of pieces and of whole nets to the entries of a table: one scale, and what the anchors add to it.

Relies on ``pieces.py`` for the pieces. Pure arithmetic: nothing here runs a net.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deps.ground.errors import LatencyTableError
from deps.profile.latency import Entry
from deps.profile.pieces import PieceTime, clock_ms
from deps.supernet.pieces import Piece

Array = NDArray[np.float64]

TERM_SHARE = 0.015
"""What share of a net's time an overhead, or a time per node, is expected to be before any anchor has told."""


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
    """Return the fit of node times to whole nets: what nodes take beyond the profiler's own clock, times a scale.

    An overhead of a run, and a further time per node, which may be negative because the clock takes more than its
    cheapest node tells, are believed as far as the anchors agree: each is drawn to nothing, by their noise over the
    share of the time that such a term usually is. Exact anchors are fitted exactly, and noisy ones only scaled.

    Args:
        rows_NF: what ``features`` says of the anchors.
        measured_ms: their times.
        pieces: all measured pieces, none of which may come out negative.

    Raises:
        LatencyTableError: the scale is not positive; the measurement is worthless.
    """
    clock = clock_ms(pieces.values())
    rows_NF = rows_NF - np.outer(rows_NF[:, 2], [clock, 0.0, 0.0])
    # In these units a further term is its share of a usual net's time.
    unit = np.median(measured_ms) / np.array([np.median(measured_ms), 1.0, max(np.mean(rows_NF[:, 2]), 1.0)])
    # Overheads below nothing and pieces that take less than no time are not; then the simpler forms have their turn.
    for chosen in ([0, 1, 2], [0, 2], [0, 1], [0]):
        if len(measured_ms) <= len(chosen) + 1 and len(chosen) > 1:
            continue
        coefficients = _drawn_least_squares((rows_NF * unit)[:, chosen] / measured_ms[:, None])
        scale, overhead, per_node = np.bincount(chosen, coefficients, minlength=3) * unit
        form = Fit(float(scale), float(overhead), float(per_node - scale * clock))
        if scale > 0 and overhead >= 0 and all(form.entry(piece).median_ms >= 0 for piece in pieces.values()):
            return form
    raise LatencyTableError(
        "node times and whole nets do not agree; stop other programs and measure again with --overwrite"
    )


def _drawn_least_squares(rows_NF: Array) -> Array:
    """Return coefficients whose sums come closest to 1, all but the first drawn to 0 as the noise commands."""
    count, terms = rows_NF.shape
    free = np.linalg.lstsq(rows_NF, np.ones(count), rcond=None)[0]
    noise = np.sqrt(np.square(rows_NF @ free - 1).sum() / max(count - terms, 1))
    pull = np.diag([0.0] + [noise / TERM_SHARE] * (terms - 1))
    aim = np.concatenate([np.ones(count), np.zeros(terms)])
    return np.asarray(np.linalg.lstsq(np.concatenate([rows_NF, pull]), aim, rcond=None)[0], np.float64)


def relative_least_squares(rows_NF: Array, measured_ms: Array) -> Array:
    """Return coefficients that minimise the squared errors relative to the measurements."""
    weighted = rows_NF / measured_ms[:, None]
    return np.asarray(np.linalg.lstsq(weighted, np.ones(len(rows_NF)), rcond=None)[0], np.float64)


def flops_line(flops: Array, measured_ms: Array, at: Array) -> Array:
    """Return what a straight line through the multiply-adds of the anchors predicts for others."""
    coefficients = relative_least_squares(np.stack([np.ones(len(flops)), flops], axis=1), measured_ms)
    return np.asarray(coefficients[0] + coefficients[1] * at)
