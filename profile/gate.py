"""Whether the system left a stretch of work alone: nothing else wanted the processor, and it was never taken away.

Relies on ``/proc/loadavg`` and on what the system counts of this process; where these say nothing, nothing is clean.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path

from deps.profile.backends.base import Sample
from deps.serve.engines.onnxruntime import usable_cores

_LOAD = Path("/proc/loadavg")


def runnable() -> int | None:
    """Return how many threads of the machine want a processor now, this one included; None where nothing tells."""
    try:
        return int(_LOAD.read_text(encoding="ascii").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return None


def most_runnable(threads: int) -> int:
    """Return how many threads may want a processor while work of so many threads is undisturbed.

    One more than there is room for: such a thread is gone in no time, or takes a core away, which is counted.
    """
    return max(1, usable_cores() - threads + 1) + 1


def timed(work: Callable[[], object], runs: int, *, most: int) -> Sample:
    """Run ``work`` several times and return the time of one run by both clocks.

    Args:
        work: what to run; it waits for its own result.
        runs: how often.
        most: how many threads may want a processor before and after.
    """
    before, switches = runnable(), resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    for _ in range(runs):
        work()
    wall, cpu = time.perf_counter_ns() - wall, time.thread_time_ns() - cpu
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
    after = runnable()
    is_clean = before is not None and after is not None and max(before, after) <= most and switches == 0
    return Sample(wall / runs / 1e6, cpu / runs / 1e6, is_clean)
