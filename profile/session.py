"""Measure all nets of a kit on this device, group by group, and remember each group at once.

Relies on ``measure.py`` for a group and on ``journal.py`` for what was finished before a kill. Processes that are
minutes apart differ by 2 to 4 %, so one that goes on where another stopped measures that one's anchors again, and
divides the difference out of everything that it measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deps.ground.console import Story
from deps.ground.errors import LatencyTableError
from deps.profile.backends.base import Backend
from deps.profile.journal import Journal
from deps.profile.kit import REWRITE, Kit, KitNet
from deps.profile.latency import Clock
from deps.profile.levels import Statistic
from deps.profile.measure import Measured, MeasureSettings, Net, measure
from deps.profile.pieces import PieceTime, profiled_pieces
from deps.serve.manifest import Precision

MEMORY_BYTES = 3 << 30
"""Nets are loaded in groups that need about this much, or half of what is free where that is less."""

TIES = 4
"""Anchors that stand in every later group of a resolution and tie its times to the first."""


@dataclass(frozen=True, slots=True)
class NetTime:
    """The time of one net."""

    ms: float
    runs: int
    uncertainty: float
    """By which share it is probably off."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is known of one resolution."""

    resolution: int
    nets: dict[str, NetTime]
    """Of each whole net, by its name; those that were profiled are missing."""

    pieces: tuple[dict[str, PieceTime], ...]
    """Of each profiled net its pieces, once for each time that it was loaded; or the pieces that were timed alone."""

    source: Literal["nodes", "blocks"]
    clock: Clock
    clean_share: float
    unsteadiness: float
    seconds: float
    """Time of the timed runs of the nets that make the table."""

    statistic: Statistic
    """Of the first group's whole nets."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Nets that are measured together."""

    unit: str
    resolution: int
    nets: tuple[KitNet, ...]
    ties: frozenset[str]
    """Names of those that are measured only to be compared."""


def measure_parts(
    kit: Kit, backend: Backend, settings: MeasureSettings, story: Story, journal: Path | None = None
) -> list[Part]:
    """Return what the device says of every resolution of a kit; finished groups of an earlier process are kept.

    Raises:
        FileError: the journal cannot be written.
        LatencyTableError: the machine is too noisy, or the kit is not complete; the message says what to do.
    """
    precision = settings.conditions.precision
    looks_inside = backend.has_node_times and not settings.is_isolated
    header = {
        "kit": kit.identity,
        "backend": backend.name,
        "conditions": {name: getattr(settings.conditions, name) for name in ("precision", "batch", "threads", "spin")},
        "seconds": settings.seconds,
        "looks_inside": looks_inside,
        "device": backend.facts(),
    }
    book = Journal(journal, header)
    if book.was_begun_otherwise:
        story.say(f"{journal} was begun with another kit, device or setting; beginning again")
    groups = list(_groups(kit, backend.max_group, looks_inside=looks_inside))
    done = {record["unit"] for record in book.records}
    left = [group for group in groups if group.unit not in done]
    process = book.processes
    with story.bar(f"{backend.name} {precision}", total=len(left) * 1000, unit="‰") as bar:

        def run(group: _Group) -> Measured:
            nets = [_net(kit, net, group, precision, looks_inside=looks_inside) for net in group.nets]
            bar.set_description(f"{backend.name} {precision}, {group.unit}")
            return measure(
                backend,
                nets,
                _net(kit, kit.probe, group, precision, looks_inside=False),
                settings,
                tick=lambda share: bar.update(round(1000 * share)),
                seed=len(book.records),
            )

        factor = 1.0
        if left and done:
            story.say(f"{len(done)} of {len(groups)} groups were finished before; measuring anchors again to go on")
            factor = _drift(kit, book, run)
            story.say(f"this process sees times of {factor:.3f} of the earlier one's, which is divided out")
        for group in left:
            record = _record(kit, group, run(group), factor, process, book)
            limit = settings.max_unsteadiness
            if record["unsteadiness"] > limit:
                raise LatencyTableError(
                    f"this machine is too noisy: at {group.resolution} px the times of odd and even visits differ by "
                    f"{record['unsteadiness']:.1%} (at most {limit:.1%} is accepted); stop other programs, or wait "
                    "for them, and run the same command again; more --seconds help too; --force believes it anyway"
                )
            book.append(record)
            story.say(_told(record))
    return [_part(kit, resolution, book) for resolution in kit.resolutions]


def _net(kit: Kit, net: KitNet, group: _Group, precision: Precision, *, looks_inside: bool) -> Net:
    is_check = net.role == "held_out" or net.name in group.ties
    is_profiled = net.role == "designed" and looks_inside
    return Net(net.name, kit.path(net, precision), kit.layers(net), is_profiled, is_check)


def _groups(kit: Kit, max_group: int, *, looks_inside: bool) -> Iterator[_Group]:
    """Yield groups that fit into memory, resolution by resolution; the nets that make the table come first."""
    room = min(MEMORY_BYTES, _free_bytes() // 2)
    for resolution in kit.resolutions:
        anchors = list(kit.at(resolution, "anchor"))
        makers = [*anchors, *kit.at(resolution, "designed" if looks_inside else "block")]
        held_out = list(kit.at(resolution, "held_out"))
        ties = anchors[:: max(1, -(-len(anchors) // TIES))]
        # The ties are measured in the first group, whatever fits into it.
        makers.sort(key=lambda net: net not in ties)
        parts: list[list[KitNet]] = [[]]
        needed = 0
        for net in [*makers, *held_out]:
            size = _size_bytes(kit, net)
            # Half of the room is always enough for one more net and the ties.
            is_full = needed + size > room or len(parts[-1]) >= max_group
            if is_full and len(parts[-1]) > len(ties):
                parts.append(list(ties))
                needed = sum(_size_bytes(kit, tie) for tie in ties)
            parts[-1].append(net)
            needed += size
        for number, part in enumerate(parts):
            tied = frozenset(tie.name for tie in ties) if number else frozenset[str]()
            yield _Group(f"{resolution} px {number + 1}/{len(parts)}", resolution, tuple(part), tied)


def _size_bytes(kit: Kit, net: KitNet) -> int:
    """Return about what a loaded net needs: its weights, a copy of some in another order, and its maps."""
    if net.arch is None:
        return 16 << 20
    return 6 * sum(piece.params for piece in kit.plan_of(net).pieces()) + (12 << 20)


def _free_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return 2 * MEMORY_BYTES


def _record(kit: Kit, group: _Group, measured: Measured, factor: float, process: int, book: Journal) -> dict[str, Any]:
    """Return what the journal keeps of a group, in the times of the first process and the first group."""
    levels = measured.levels
    if group.ties:
        known = _net_times(book, group.resolution)
        pairs = [
            (levels.ms[i] / factor, known[net.name].ms) for i, net in enumerate(group.nets) if net.name in group.ties
        ]
        factor *= float(np.exp(np.median([np.log(now / then) for now, then in pairs])))
    nets, pieces = {}, {}
    for position, net in enumerate(group.nets):
        if position in measured.nodes:
            for number, times in enumerate(measured.nodes[position]):
                found = profiled_pieces(kit.plan_of(net), times.names, times.times_ms, holds_clock=times.holds_clock)
                pieces[f"{net.name}, loaded {number + 1}"] = {
                    key: [
                        one.nodes_ms / factor,
                        one.spread_ms / factor,
                        one.num_nodes,
                        one.runs,
                        one.least_ms / factor,
                        {part: ms / factor for part, ms in one.parts},
                    ]
                    for key, one in found.items()
                }
        elif net.name not in group.ties:
            if not np.isfinite(levels.ms[position]):
                raise LatencyTableError(
                    f"{net.name} was never run undisturbed; stop other programs, or wait for them, and run the same "
                    "command again"
                )
            nets[net.name] = [
                float(levels.ms[position] / factor),
                float(levels.spread_ms[position] / factor),
                int(levels.runs[position]),
                float(np.nan_to_num(levels.uncertainty[position])),
            ]
    return {
        "unit": group.unit,
        "resolution": group.resolution,
        "process": process,
        "clock": measured.clock,
        "clean_share": measured.clean_share,
        "unsteadiness": levels.unsteadiness,
        "seconds": measured.table_seconds,
        "statistic": levels.statistic,
        "nets": nets,
        "pieces": pieces,
    }


def _drift(kit: Kit, book: Journal, run: Callable[[_Group], Measured]) -> float:
    """Return by which factor this process sees the anchors of the first finished resolution slower than it was then."""
    first = book.records[0]["resolution"]
    known = _net_times(book, first)
    anchors = [net for net in kit.at(first, "anchor") if net.name in known]
    names = frozenset(net.name for net in anchors)
    measured = run(_Group(f"{first} px again", first, tuple(anchors), names))
    ratios = [measured.levels.ms[i] / known[net.name].ms for i, net in enumerate(anchors)]
    return float(np.exp(np.nanmedian(np.log(ratios)))) if ratios else 1.0


def _net_times(book: Journal, resolution: int) -> dict[str, NetTime]:
    return {
        name: NetTime(ms, runs, uncertainty)
        for record in book.records
        if record["resolution"] == resolution
        for name, (ms, _, runs, uncertainty) in record["nets"].items()
    }


def _part(kit: Kit, resolution: int, book: Journal) -> Part:
    records = [record for record in book.records if record["resolution"] == resolution]
    roles = {net.name: net for net in kit.manifest.nets}
    pieces = [
        # A journal of an older version tells nothing of the cheapest node, or of parts.
        {key: PieceTime(*told[:5], *(tuple(parts.items()) for parts in told[5:])) for key, told in found.items()}
        for record in records
        for found in record["pieces"].values()
    ]
    source: Literal["nodes", "blocks"] = "nodes" if pieces else "blocks"
    for record in records:
        for name, (ms, spread, runs, _) in record["nets"].items():
            if roles[name].role == "block":
                pieces.append({roles[name].piece or "": PieceTime(ms, spread, 1, runs)})
    nets = {name: time for name, time in _net_times(book, resolution).items() if roles[name].role != "block"}
    present = {roles[name].role for name in nets}
    if missing := [role for role in ("anchor", "held_out") if role not in present]:
        raise LatencyTableError(f"{kit.folder} has no {missing[0]} nets at {resolution} px; {REWRITE}")
    return Part(
        resolution,
        nets,
        tuple(pieces),
        source,
        clock="cpu" if any(record["clock"] == "cpu" for record in records) else "wall",
        clean_share=float(np.mean([record["clean_share"] for record in records])),
        unsteadiness=max(record["unsteadiness"] for record in records),
        seconds=float(records[0]["seconds"]),
        statistic=records[0].get("statistic", "mean"),
    )


def _told(record: dict[str, Any]) -> str:
    return (
        f"{record['unit']}: {record['seconds']:.0f} s timed, {record['clean_share']:.0%} undisturbed, odd and even "
        f"visits within {record['unsteadiness']:.1%}"
    )
