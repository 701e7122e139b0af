"""A stretch of work is clean only when the system says that it left it alone."""

from __future__ import annotations

import hashlib
import threading

import pytest

from deps.profile.gate import most_runnable, runnable, timed
from deps.serve.engines.onnxruntime import usable_cores


def test_timed_counts_runs_and_reads_both_clocks() -> None:
    """Times are of one run, whatever the length of the stretch."""
    calls = []

    def work() -> None:
        calls.append(sum(range(20_000)))

    sample = timed(work, 7, most=1 << 20)
    assert len(calls) == 7
    assert sample.cpu_ms > 0
    assert sample.ms > 0


@pytest.mark.skipif(runnable() is None, reason="this system has no /proc/loadavg")
def test_work_beside_busy_neighbours_is_not_clean() -> None:
    """The wall clock counts only what nothing disturbed; threads that spin are such a disturbance."""
    stop = threading.Event()
    data = bytes(1 << 22)

    def spin() -> None:
        # Hashing a large buffer gives up the interpreter's lock, so that the neighbour truly runs at the same time.
        while not stop.is_set():
            hashlib.sha256(data)

    neighbours = [threading.Thread(target=spin) for _ in range(usable_cores() + 1)]
    for neighbour in neighbours:
        neighbour.start()
    try:
        samples = [timed(lambda: hashlib.sha256(data), 5, most=1) for _ in range(20)]
    finally:
        stop.set()
        for neighbour in neighbours:
            neighbour.join()
    assert sum(sample.is_clean for sample in samples) < 10


def test_cores_that_the_work_leaves_free_may_be_used_by_others() -> None:
    """Work of one thread leaves all cores but one to whoever wants them; work on all cores tolerates one passer-by."""
    assert most_runnable(1) == usable_cores() + 1
    assert most_runnable(usable_cores()) == 2
    assert most_runnable(usable_cores() + 5) == 2
