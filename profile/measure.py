"""Time the nets of a group in turns until enough is known, with the probe between them.

Relies on a backend for single runs and on ``levels.py`` for what they mean. Nets take turns in random order, so that
whatever drifts meets all of them alike; each visit begins with a run that is not timed, since the net that ran before
has left its own weights in the cache. They are loaded in random order too: those that a process loads first were seen
to run some per cent slower than its last, in some processes and not in others. And each is loaded several times, one
after the other: where its weights come to lie makes a copy quicker or slower by a per cent or more for good.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deps.ground.errors import LatencyTableError
from deps.profile.backends.base import Backend, Conditions, Loaded, NodeTimes, Sample
from deps.profile.latency import Clock
from deps.profile.levels import Levels, Runs, settle
from deps.supernet.pieces import Piece
from deps.supernet.plan import NetworkPlan

MIN_VISITS = 6
"""Visits that each net gets at least."""

STRETCHES = 2
"""Timed stretches of a visit; more would be timed in the same state of the device and add little."""

STRETCH_MS = 4.0
"""About the least length of a stretch, given ten seconds: long beside reading the load and the clock."""

PROBE_MS = 0.15
"""About the least length of a probe."""

STEADY = 0.005
"""Enough was measured when odd and even visits differ by this share at most."""

MAX_UNSTEADINESS = 0.06
"""Times that differ by more are no ground for a table."""

MIN_CLEAN = 6
"""With fewer clean stretches of any net the wall clock is not believed."""


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """How a session measures."""

    conditions: Conditions = field(default_factory=Conditions)
    seconds: float = 10.0
    """A resolution is done when the runs of its designed nets and anchors have taken so long, or are steady."""

    check_visits: int = 1
    """How often the held-out nets are visited in a round; more makes the stated error, not the table, more certain."""

    is_isolated: bool = False
    """Whether pieces are timed alone although the runtime could look into whole nets."""

    max_unsteadiness: float = MAX_UNSTEADINESS
    """Times that differ by more than this share between odd and even visits make no table."""

    accepts_disturbed: bool = False
    """Whether the wall clock of several threads is believed although too few stretches were clean."""

    @property
    def stretch_ms(self) -> float:
        """About the least length of a stretch: shorter ones where there is little time."""
        return min(STRETCH_MS, 0.4 * self.seconds)

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise LatencyTableError(f"seconds is {self.seconds}; expected more than 0")
        if self.check_visits < 1:
            raise LatencyTableError(f"check_visits is {self.check_visits}; expected at least 1")


@dataclass(frozen=True, slots=True)
class Net:
    """One net to be timed."""

    name: str
    path: Path
    what: NetworkPlan | Piece
    """Its layers."""

    is_profiled: bool = False
    """Whether its nodes are timed one by one."""

    is_check: bool = False
    """Whether it only judges the table."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a group of nets took."""

    levels: Levels
    """Of each net, by its position; of profiled nets too, which the profiler slows down."""

    nodes: dict[int, list[NodeTimes]]
    """Of each profiled net, by its position, one for each time that it was loaded, since the runtime may order nodes
    otherwise then; only believable stretches, the slowness of each divided out."""

    clock: Clock
    clean_share: float
    """Share of the stretches that the system left alone."""

    table_seconds: float
    """Time that the timed runs of the nets which make the table have taken."""

    seconds: float
    """The same of all nets, with the probes and the runs that were not timed."""


class _Log:
    """Everything that was timed in a group, in the order in which it happened."""

    def __init__(self) -> None:
        self.net: list[int] = []
        self.visit: list[int] = []
        self.samples: list[Sample] = []
        self.probes: list[tuple[float, float]] = []

    def runs(self, clock: Clock, *, clean_only: bool) -> Runs:
        times = np.array([sample.ms if clock == "wall" else sample.cpu_ms for sample in self.samples])
        if clean_only:
            times[~self.is_clean] = np.nan
        before, after = np.array(self.probes).reshape(-1, 2).T
        return Runs(np.array(self.net, np.intp), times, before, after, np.array(self.visit, np.intp))

    @property
    def is_clean(self) -> NDArray[np.bool_]:
        return np.array([sample.is_clean for sample in self.samples], np.bool_)


def measure(
    backend: Backend,
    nets: Sequence[Net],
    probe: Net,
    settings: MeasureSettings,
    tick: Callable[[float], object] = lambda _: None,
    seed: int = 0,
) -> Measured:
    """Time all nets of a group, in turns, until the times are steady or the time is up.

    Args:
        backend: runs them.
        nets: what to time.
        probe: the net that tells how fast the device is.
        settings: conditions and limits.
        tick: told which share of the work was done since it was told last.
        seed: of the order in which nets are visited.

    Raises:
        LatencyTableError: a net cannot be loaded, or nothing undisturbed was seen; the message says what to do.
    """
    log, rng = _Log(), np.random.default_rng(seed)
    spent = _Spent(nets, settings)
    nodes: dict[int, list[NodeTimes]] = {i: [] for i, net in enumerate(nets) if net.is_profiled}
    for turn in range(1, backend.loads + 1):
        first = len(log.net)
        with contextlib.ExitStack() as stack:
            by_position: dict[int, Loaded] = {}
            for position in rng.permutation(len(nets)).tolist():
                net = nets[position]
                by_position[position] = backend.load(net.path, net.what, is_profiled=net.is_profiled)
                stack.callback(by_position[position].close)
                by_position[position].run()
            loaded = [by_position[position] for position in range(len(nets))]
            watcher = backend.load(probe.path, probe.what, is_profiled=False)
            stack.callback(watcher.close)
            probe_runs, runs = _lengths(watcher, PROBE_MS), [_lengths(one, settings.stretch_ms) for one in loaded]
            for _ in _rounds(nets, log, spent, tick, until=turn / backend.loads):
                order = [i for i, net in enumerate(nets) for _ in range(settings.check_visits if net.is_check else 1)]
                for position in rng.permutation(order):
                    spent.add(int(position), *_visit(int(position), loaded, watcher, probe_runs, runs, log))
            for position, found in nodes.items():
                times = loaded[position].node_times()
                # The lengths were found with stretches that belong to no visit; they come first.
                visited = log.net[first:].count(position)
                found.append(times._replace(times_ms=times.times_ms[len(times.times_ms) - visited :]))
    return _understood(nets, log, nodes, backend, settings, spent)


class _Spent:
    """Time so far: of the nets that make the table, where the group has any, and of everything."""

    def __init__(self, nets: Sequence[Net], settings: MeasureSettings) -> None:
        makers = [not net.is_check for net in nets]
        self.counts = makers if any(makers) else [True] * len(nets)
        self.limit_ms = 1e3 * settings.seconds * (1 if any(makers) else settings.check_visits)
        self.counted_ms = 0.0
        self.all_ms = 0.0
        self.rounds = 0
        self.told = 0.0

    def add(self, position: int, timed_ms: float, around_ms: float) -> None:
        self.counted_ms += timed_ms * self.counts[position]
        self.all_ms += timed_ms + around_ms


def _lengths(loaded: Loaded, least_ms: float) -> int:
    """Return how many runs make a stretch of at least so long, warming the net up on the way."""
    loaded.run()
    fastest = min(loaded.timed(1).ms for _ in range(3))
    return max(1, min(64, math.ceil(least_ms / max(fastest, 1e-4))))


def _visit(
    position: int, loaded: Sequence[Loaded], watcher: Loaded, probe_runs: int, runs: Sequence[int], log: _Log
) -> tuple[float, float]:
    """Run one net a few times between probes; return milliseconds that were timed, and those around them."""
    visit = log.net.count(position) // STRETCHES
    loaded[position].run()
    before = watcher.timed(probe_runs).ms
    timed_ms, around_ms, last_ms = 0.0, before * probe_runs, 0.0
    for _ in range(STRETCHES):
        sample = loaded[position].timed(runs[position])
        after = watcher.timed(probe_runs).ms
        log.net.append(position)
        log.visit.append(visit)
        log.samples.append(sample)
        log.probes.append((before, after))
        before = after
        timed_ms, last_ms = timed_ms + sample.ms * runs[position], sample.ms
        around_ms += after * probe_runs
    return timed_ms, around_ms + last_ms


def _rounds(
    nets: Sequence[Net], log: _Log, spent: _Spent, tick: Callable[[float], object], *, until: float
) -> Iterator[None]:
    """Yield once a round until enough is known for so much of the whole."""
    while True:
        yield
        spent.rounds += 1
        share = min(until, spent.counted_ms / spent.limit_ms)
        tick(max(0.0, share - spent.told))
        spent.told = max(spent.told, share)
        if spent.rounds >= math.ceil(MIN_VISITS * until) and (
            share == until or settle(log.runs("wall", clean_only=False), len(nets)).unsteadiness < STEADY
        ):
            tick(until - spent.told)
            spent.told = until
            return


def _understood(
    nets: Sequence[Net],
    log: _Log,
    nodes: dict[int, list[NodeTimes]],
    backend: Backend,
    settings: MeasureSettings,
    spent: _Spent,
) -> Measured:
    """Choose the clock, settle the times, and keep of the nodes what can be believed.

    One thread's processor time leaves out what others took, so all its stretches count; the wall clock's count where
    they were clean. Whichever repeats better is taken.

    Raises:
        LatencyTableError: too little was undisturbed, and there is no second clock.
    """
    clean = log.is_clean
    fewest = int(np.bincount(np.array(log.net)[clean], minlength=len(nets)).min())
    is_clean = fewest >= MIN_CLEAN
    has_witness = settings.conditions.threads == 1 and backend.has_cpu_clock
    if not is_clean and not has_witness and not settings.accepts_disturbed:
        raise LatencyTableError(
            f"{clean.mean():.0%} of the runs were undisturbed, {fewest} of some net (at least {MIN_CLEAN} of each "
            f"are needed with {settings.conditions.threads} threads); stop other programs and measure again, or "
            "use --threads 1; --force believes the wall clock all the same"
        )
    answers: list[tuple[Clock, Runs, Levels]] = []
    if is_clean or not has_witness:
        runs = log.runs("wall", clean_only=is_clean)
        answers.append(("wall", runs, settle(runs, len(nets))))
    if has_witness:
        runs = log.runs("cpu", clean_only=False)
        answers.append(("cpu", runs, settle(runs, len(nets))))
    clock, runs, levels = min(answers, key=lambda answer: answer[2].unsteadiness)
    believed = {}
    for position, found in nodes.items():
        own = np.flatnonzero(runs.net == position)
        ends = np.cumsum([len(times.times_ms) for times in found])
        believed[position] = [
            times._replace(times_ms=times.times_ms[keep] / levels.slowness[part][keep][:, None])
            for times, part in zip(found, np.split(own, ends[:-1]), strict=True)
            if (keep := np.isfinite(runs.ms[part])).any()
        ]
    return Measured(
        levels=levels,
        nodes=believed,
        clock=clock,
        clean_share=float(clean.mean()),
        table_seconds=spent.counted_ms / 1e3,
        seconds=spent.all_ms / 1e3,
    )
