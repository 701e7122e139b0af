"""From the nodes of profiled nets to the times of pieces: which node is whose, and what all nets together say of each.

A piece is put together from its *parts*, an expansion, a depthwise convolution and so on: the nets of a kit hold each
part more often than each piece, since an expansion does not care about the kernel that comes after it. Relies on nodes
being named after the layers that they run. Pure arithmetic: nothing here runs a net.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deps.ground.errors import LatencyTableError
from deps.supernet.pieces import BottleneckPlan, InvertedPlan, Piece
from deps.supernet.plan import NetworkPlan

Array = NDArray[np.float64]

QUARTILE = 25
"""Percentile of a node's times that tells the cheapest of them."""


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

    parts: tuple[tuple[str, float], ...] = ()
    """Key and time of each of its parts, which add up to ``nodes_ms``; none where they are not known."""


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


def part_keys(piece: Piece, node_names: Sequence[str]) -> list[str]:
    """Return what each node of a piece is a part of; nodes of equal parts take the same time in any piece.

    A node that names several layers, which the runtime fused, is a part of its own kind; one that names none, inserted
    by the runtime, belongs to the rest of the piece. The rest does not depend on the kernel where the layer that does
    can be told apart.

    Args:
        piece: the piece.
        node_names: of its nodes.
    """
    layers = _layers(piece)
    pattern = re.compile(rf"(?<![0-9A-Za-z.])(?:{'|'.join(map(re.escape, layers))})(?![0-9A-Za-z])") if layers else None
    named = [sorted(set(pattern.findall(name))) if pattern else [] for name in node_names]
    rest = piece.key
    if isinstance(piece, InvertedPlan) and any(piece.depthwise.name in names for names in named):
        rest = replace(piece, depthwise=replace(piece.depthwise, kernel=1)).key
    return [" & ".join(layers[name] for name in names) or f"rest of {rest}" for names in named]


def _layers(piece: Piece) -> dict[str, str]:
    """Return the key of every layer of a block by its name, saying all that its time depends on."""
    if not isinstance(piece, InvertedPlan | BottleneckPlan):
        return {}
    keys = {conv.name: conv.key for conv in piece.convolutions()}
    if isinstance(piece, BottleneckPlan):
        # The last convolution adds the shortcut.
        keys[piece.restore.name] += " projected" if piece.shortcut else " +"
        return keys
    keys[piece.project.name] += " +" if piece.has_shortcut else ""
    if piece.squeeze:
        shape = f"{piece.squeeze.channels}>{piece.squeeze.hidden} @{piece.project.size_in}"
        # What scales the map is another kind of work than what looks at one number a channel.
        keys |= {f"{piece.squeeze.name}.scale": f"scale {shape}", piece.squeeze.name: f"squeeze {shape}"}
    return keys


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
    sums: dict[str, list[Array]] = defaultdict(list)
    parts: dict[str, dict[str, list[Array]]] = defaultdict(lambda: defaultdict(list))
    nodes: dict[str, list[float]] = defaultdict(list)
    for name, piece in pieces.items():
        # A piece that the runtime merged into its neighbour takes no time of its own.
        own = columns.get(name, [])
        sums[piece.key].append(times_ms[:, own].sum(axis=1))
        nodes[piece.key] += levels[own].tolist()
        keys = np.array(part_keys(piece, [node_names[column] for column in own]))
        for key in dict.fromkeys(keys.tolist()):
            parts[piece.key][key].append(times_ms[:, np.array(own)[keys == key]].sum(axis=1))
    return {
        key: _piece_time(
            np.concatenate(own),
            {part: np.concatenate(times) for part, times in parts[key].items()},
            num_nodes=len(nodes[key]) / len(own),
            least_ms=min(nodes[key], default=0.0) * holds_clock,
        )
        for key, own in sums.items()
    }


def _piece_time(times_ms: Array, parts_ms: Mapping[str, Array], *, num_nodes: float, least_ms: float) -> PieceTime:
    lower, upper = np.percentile(times_ms, [25, 75])
    # A part may stand at fewer places than its piece, where the runtime fused it at the others.
    parts = tuple((key, undisturbed_ms(own) * len(own) / len(times_ms)) for key, own in parts_ms.items())
    return PieceTime(sum(ms for _, ms in parts), float(upper - lower) / 2, num_nodes, len(times_ms), least_ms, parts)


def undisturbed_ms(times_ms: Array) -> float:
    """Return the mean of the quicker half of some times: of those tried, it predicted whole nets best.

    As deaf to disturbances as a low percentile, and less at the mercy of single runs and of a clock that counts whole
    microseconds.
    """
    ordered = np.sort(times_ms)
    return float(ordered[: (len(ordered) + 1) // 2].mean())


def joined_pieces(nets: Iterable[Mapping[str, PieceTime]]) -> dict[str, PieceTime]:
    """Return the time of each piece over several nets: the sum of its parts, each the median of all that have it."""
    seen: dict[str, list[PieceTime]] = defaultdict(list)
    for net in nets:
        for key, piece in net.items():
            seen[key].append(piece)
    parts: dict[str, list[float]] = defaultdict(list)
    for own in seen.values():
        for key, ms in (part for piece in own for part in piece.parts):
            parts[key].append(ms)
    pooled = {key: float(np.median(times)) for key, times in parts.items()}

    def put_together(piece: PieceTime) -> float:
        return sum(pooled[key] for key, _ in piece.parts) if piece.parts else piece.nodes_ms

    return {
        key: PieceTime(
            nodes_ms=float(np.median([put_together(one) for one in own])),
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
