"""Time whole nets on this machine with ONNX Runtime, and say how far the times can be believed.

Nets take turns in rounds. A burst of runs is *clean* when nothing else was runnable before and after it and the system
never took the processor away in between. Where a busy machine grants no clean bursts, one thread's processor time
stands in. Either way a round in which the whole machine was slow is recognised, since it slows every net alike, and
divided out. Relies on numpy and onnxruntime alone, so that a device can measure.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from deps.ground.console import Story
from deps.ground.errors import LatencyTableError
from deps.profile.latency import Clock

Matrix = NDArray[np.float64]

MIN_CLEAN = 8
"""Clean bursts that each net needs before the wall clock is believed."""

BURST_MS = 4.0
"""About the length of a burst: long beside reading the load, short beside what disturbs a machine."""

STEADY = 0.005
"""Enough rounds were made when the times of even and odd rounds differ by this share at most."""

MAX_UNSTEADINESS = 0.06
"""Times that differ by more are no ground for a table."""

MEMORY_BYTES = 3 << 30
"""Nets are loaded in groups that need about this much."""


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """How a session measures."""

    threads: int = 1
    batch: int = 1
    min_rounds: int = 16
    max_rounds: int = 96
    max_seconds: float = 25.0
    """After so long a resolution is done with what it has, once ``min_rounds`` were made."""

    max_unsteadiness: float = MAX_UNSTEADINESS
    """Times that differ by more than this share between even and odd rounds make no table."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise LatencyTableError(f"threads is {self.threads}; expected at least 1")
        if self.batch < 1:
            raise LatencyTableError(f"batch is {self.batch}; expected at least 1")
        if not MIN_CLEAN <= self.min_rounds <= self.max_rounds:
            raise LatencyTableError(f"min_rounds is {self.min_rounds}; expected {MIN_CLEAN} to {self.max_rounds}")


@dataclass(frozen=True, slots=True)
class Net:
    """One net to be timed."""

    path: Path
    size_bytes: int
    """Of its weights, to guess what a session of it needs."""

    is_profiled: bool
    """Whether its nodes are timed one by one, rather than the whole net."""


@dataclass(frozen=True, slots=True)
class NodeTimes:
    """The nodes of one profiled net, in the order in which they run."""

    names: tuple[str, ...]
    times_ms: Matrix
    """Shape (rounds, nodes): each node's mean over a burst, with the slowness of its round divided out."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a session found."""

    net_ms: dict[int, float]
    """Time of one run of each net that was not profiled, by its position."""

    nodes: dict[int, NodeTimes]
    """Of each profiled net, by its position."""

    clock: Clock
    clean_share: float
    """Share of the bursts that nothing disturbed."""

    unsteadiness: float
    """By which share the times of even and odd rounds differ, in the median over the nets."""

    rounds: int


# One burst. ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Burst:
    """One timed stretch of runs; times are of one run."""

    wall_ms: float
    cpu_ms: float
    is_clean: bool


def runnable() -> int | None:
    """Return how many threads of the machine want a processor now, this one included; None where nothing tells."""
    try:
        return int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return None


def timed(work: Callable[[], object], runs: int) -> Burst:
    """Run ``work`` several times and return the time of one run, and whether anything disturbed it."""
    before, switches = runnable(), resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    for _ in range(runs):
        work()
    wall, cpu = time.perf_counter_ns() - wall, time.thread_time_ns() - cpu
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
    after = runnable()
    is_clean = before is not None and after is not None and max(before, after) <= 1 and switches == 0
    return Burst(wall / runs / 1e6, cpu / runs / 1e6, is_clean)


# Many nets in turn. ----------------------------------------------------------------------------------------------


class _Runner:
    """One net, loaded and warm; its profile, where it has one, is written when it is closed."""

    def __init__(self, net: Net, settings: MeasureSettings, prefix: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin while they wait would keep the other cores, and the load, busy.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_profiling = net.is_profiled
        options.profile_file_prefix = str(prefix)
        try:
            self.session = onnxruntime.InferenceSession(str(net.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common base of their own
            raise LatencyTableError(
                f"{net.path} cannot be loaded by onnxruntime ({error}); write the kit again"
            ) from error
        (image,) = self.session.get_inputs()
        shape = [settings.batch, *image.shape[1:]]
        self.feed = {image.name: np.random.default_rng(0).standard_normal(shape, np.float32)}
        self.run()
        self.runs_per_burst = max(1, min(32, math.ceil(BURST_MS / max(timed(self.run, 2).cpu_ms, 1e-3))))
        self.warm_runs = 3
        self.bursts: list[tuple[int, Burst]] = []

    def run(self) -> object:
        return self.session.run(None, self.feed)

    def burst(self, round_number: int) -> None:
        # The net that ran before has left its own weights in the cache.
        self.run()
        self.bursts.append((round_number, timed(self.run, self.runs_per_burst)))

    def node_times(self) -> tuple[tuple[str, ...], Matrix]:
        """Return the names of the nodes and their times, shape (bursts, nodes), from the runtime's own profile."""
        path = Path(self.session.end_profiling())
        events = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
        kernels = [event for event in events if event.get("name", "").endswith("_kernel_time")]
        runs = self.warm_runs + len(self.bursts) * (1 + self.runs_per_burst)
        if not kernels or len(kernels) % runs:
            raise LatencyTableError(
                f"onnxruntime {onnxruntime.__version__} profiled {len(kernels)} nodes in {runs} runs, which is no "
                "whole number a run; update onnxruntime"
            )
        times = np.array([event["dur"] for event in kernels], np.float64).reshape(runs, -1) / 1e3
        names = tuple(event["name"].removesuffix("_kernel_time") for event in kernels[: times.shape[1]])
        visits = times[self.warm_runs :].reshape(len(self.bursts), 1 + self.runs_per_burst, -1)
        return names, visits[:, 1:].mean(axis=1)


def measure(nets: Sequence[Net], settings: MeasureSettings, story: Story, what: str = "measuring") -> Measured:
    """Time all nets in one session, in turns, until the times are steady.

    Args:
        nets: what to time, at least two of them not profiled.
        settings: threads, batch and limits.
        story: where progress is shown.
        what: name of the progress bar.

    Raises:
        LatencyTableError: a net cannot be loaded, or the machine is too noisy; the message says what to do.
    """
    times: dict[Clock, list[dict[int, float]]] = {"wall": [], "cpu": []}
    clean: list[dict[int, bool]] = []
    raw: dict[int, tuple[tuple[str, ...], list[int], Matrix]] = {}
    groups = _groups(nets)
    for number, group in enumerate(groups):
        with _loaded(nets, group, settings) as runners:
            label = what if len(groups) == 1 else f"{what} ({number + 1}/{len(groups)})"
            first = len(clean)
            for burst_of in _rounds(runners, nets, settings, story, label, settings.max_seconds / len(groups)):
                times["wall"].append({i: burst.wall_ms for i, burst in burst_of.items()})
                times["cpu"].append({i: burst.cpu_ms for i, burst in burst_of.items()})
                clean.append({i: burst.is_clean for i, burst in burst_of.items()})
            for position, runner in runners.items():
                if nets[position].is_profiled:
                    names, node_ms = runner.node_times()
                    raw[position] = (names, [first + r for r, _ in runner.bursts], node_ms)

    is_clean = _matrix(clean, len(nets)) == 1
    whole = [i for i, net in enumerate(nets) if not net.is_profiled]
    clock = _choose_clock(is_clean, settings)
    matrix = _matrix(times[clock], len(nets))
    if clock == "wall":
        matrix = np.where(is_clean, matrix, np.nan)
    level, slowness = net_times(matrix[:, whole])
    unsteadiness = _unsteadiness(matrix[:, whole])
    if unsteadiness > settings.max_unsteadiness:
        raise LatencyTableError(
            f"this machine is too noisy: the times of even and odd rounds differ by {unsteadiness:.0%} (at most "
            f"{settings.max_unsteadiness:.0%} is accepted); stop other programs, or wait for them, and measure again"
        )
    nodes = {}
    for position, (names, rounds, node_ms) in raw.items():
        kept = [k for k, r in enumerate(rounds) if np.isfinite(slowness[r]) and np.isfinite(matrix[r, position])]
        factor = slowness[[rounds[k] for k in kept]]
        nodes[position] = NodeTimes(names, node_ms[kept] / factor[:, None])
    return Measured(
        net_ms={i: float(t) for i, t in zip(whole, level, strict=True)},
        nodes=nodes,
        clock=clock,
        clean_share=float(np.mean(np.concatenate([list(row.values()) for row in clean]))),
        unsteadiness=unsteadiness,
        rounds=len(clean),
    )


def _groups(nets: Sequence[Net]) -> list[list[int]]:
    """Return which nets are loaded together; two nets that are not profiled stand in every group and tie them."""
    ties = [i for i, net in enumerate(nets) if not net.is_profiled][:2]
    if len(ties) < 2:
        raise LatencyTableError(f"{len(ties)} nets are not profiled; expected at least two whole nets")
    groups: list[list[int]] = []
    room = 0.0
    for position, net in enumerate(nets):
        if position in ties:
            continue
        # Loading keeps the weights and a copy in the order that its convolutions want.
        needed = 2.5 * net.size_bytes + (16 << 20)
        if not groups or needed > room:
            groups.append(list(ties))
            room = float(MEMORY_BYTES)
        groups[-1].append(position)
        room -= needed
    return groups or [ties]


@contextlib.contextmanager
def _loaded(nets: Sequence[Net], group: Sequence[int], settings: MeasureSettings) -> Iterator[dict[int, _Runner]]:
    with tempfile.TemporaryDirectory(prefix="deps-profile-") as folder:
        yield {i: _Runner(nets[i], settings, Path(folder) / f"net{i}") for i in group}


def _rounds(
    runners: dict[int, _Runner], nets: Sequence[Net], settings: MeasureSettings, story: Story, what: str, seconds: float
) -> Iterator[dict[int, Burst]]:
    """Yield the bursts of each round until the times are steady, or time is up."""
    start, done = time.monotonic(), []
    whole = [i for i in runners if not nets[i].is_profiled]
    with story.bar(what, total=settings.max_rounds, unit="round") as bar:
        for number in range(settings.max_rounds):
            for runner in runners.values():
                runner.burst(number)
            latest = {i: runner.bursts[-1][1] for i, runner in runners.items()}
            done.append([latest[i] for i in whole])
            bar.update()
            yield latest
            if number + 1 < settings.min_rounds:
                continue
            is_late = time.monotonic() - start > seconds
            clean = np.array([[burst.is_clean for burst in row] for row in done])
            is_settled = clean.sum(axis=0).min() >= MIN_CLEAN or (settings.threads == 1 and clean.mean() < 0.25)
            if is_late or (is_settled and _unsteadiness(np.array([[b.cpu_ms for b in row] for row in done])) < STEADY):
                return


def _choose_clock(is_clean: NDArray[np.bool_], settings: MeasureSettings) -> Clock:
    """Return which clock to believe.

    Raises:
        LatencyTableError: too few bursts were clean, and several threads have no second witness.
    """
    fewest = int(is_clean.sum(axis=0).min())
    if fewest >= MIN_CLEAN:
        return "wall"
    if settings.threads == 1:
        return "cpu"
    raise LatencyTableError(
        f"only {fewest} of {len(is_clean)} bursts of some net were undisturbed (at least {MIN_CLEAN} are needed with "
        f"{settings.threads} threads); stop other programs and measure again, or use --threads 1"
    )


# What the times mean. --------------------------------------------------------------------------------------------


def net_times(matrix_ms: Matrix) -> tuple[Matrix, Matrix]:
    """Return the time of each net, and how slow each round was, from times that are products of both.

    The time of a net in a round is its own time, times the slowness of the round, times noise. Medians of either over
    the other settle both, so a burst that went wrong moves nothing.

    Args:
        matrix_ms: shape (rounds, nets); NaN where a net has no believable time.

    Returns:
        Milliseconds of each net in a round of ordinary quickness (the lower quartile of rounds), and the slowness of
        each round relative to that; NaN for a round without any time.
    """
    logs = np.log(matrix_ms)
    net, slow = _nanmedian(logs, 0), np.zeros(len(logs))
    for _ in range(30):
        slow = _nanmedian(logs - net, 1)
        net = _nanmedian(logs - slow[:, None], 0)
    usual = float(np.nanpercentile(slow, 25))
    return np.exp(net + usual), np.exp(slow - usual)


def _nanmedian(values: Matrix, axis: int) -> Matrix:
    """Return medians over what is there, and NaN where nothing is (which numpy warns of)."""
    empty = np.isnan(values).all(axis=axis)
    median = np.nanmedian(np.where(np.expand_dims(empty, axis), 0.0, values), axis=axis)
    return np.where(empty, np.nan, median)


def _unsteadiness(matrix_ms: Matrix) -> float:
    """Return by which share the nets' times differ between even and odd rounds, in the median over the nets."""
    logs = []
    for half in (matrix_ms[0::2], matrix_ms[1::2]):
        net, _ = net_times(half)
        logs.append(np.log(net))
    difference = logs[0] - logs[1]
    return float(np.nanmedian(np.abs(difference - np.nanmedian(difference))))


def _matrix(rows: Sequence[dict[int, Any]], columns: int) -> Matrix:
    """Return rows given as {column: value} as an array with NaN where there is no value."""
    matrix = np.full((len(rows), columns), np.nan)
    for row, values in zip(matrix, rows, strict=True):
        row[list(values)] = list(values.values())
    return matrix
