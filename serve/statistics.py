"""What one served model has done: requests, batches, times; statistics and metrics are both written from it.

Relies on one event loop calling every method. What the engines did is counted by the runner and only added here.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the latency histograms: a fast subnet on a GPU answers in less than a millisecond."""


@dataclass(slots=True)
class Tally:
    """A count and the time it took."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count more."""
        self.count += count
        self.ns += round(seconds * 1e9)

    def to_dict(self) -> dict[str, int]:
        """Return it as the statistics extension writes it."""
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class Histogram:
    """Observations by upper bound, with their sum."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """Count observations of one value; a value that equals a bound lies under it."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class ModelStatistics:
    """The account of one name of the protocol."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self.success = Tally()
        self.failed = Tally()
        self.queue = Tally()
        self.compute = Tally()
        self.images = 0
        self.last_inference_ms = 0
        self.latency = Histogram(LATENCY_BUCKETS_S)
        self.waiting = Histogram(LATENCY_BUCKETS_S)
        self.subnets: Counter[tuple[str, str]] = Counter()
        self.refusals: Counter[int] = Counter()
        self.errors = 0
        self.cancelled = 0

    def answered(
        self, *, images: int, seconds: float, queue_s: float, compute_s: float, subnet: str, precision: str
    ) -> None:
        """Count a request that was answered.

        Args:
            images: how many it held.
            seconds: from its arrival to its answer.
            queue_s: of these, waiting for the engine.
            compute_s: of these, in the engine.
            subnet: which answered.
            precision: of that subnet's file.
        """
        self.success.add(seconds)
        self.queue.add(queue_s)
        self.compute.add(compute_s)
        self.images += images
        self.last_inference_ms = int(self._now() * 1000)
        self.latency.observe(seconds)
        self.waiting.observe(queue_s)
        self.subnets[subnet, precision] += 1

    def refused(self, status: int, seconds: float) -> None:
        """Count a request that was not answered, by the status it got."""
        self.failed.add(seconds)
        self.refusals[status] += 1

    def broke(self, seconds: float) -> None:
        """Count a request that an error of the engine or of ours cost."""
        self.failed.add(seconds)
        self.errors += 1

    def hung_up(self) -> None:
        """Count a client that did not wait."""
        self.cancelled += 1

    def to_dict(self, name: str, version: str, batches: Mapping[int, tuple[int, float]]) -> dict[str, Any]:
        """Return the statistics of one model as Triton's clients read them; perf_analyzer subtracts two of them.

        Args:
            name: the model's.
            version: the model's.
            batches: by images in a batch, how many such batches the engines ran, and their seconds.
        """
        none = Tally().to_dict()
        return {
            "name": name,
            "version": version,
            "last_inference": self.last_inference_ms,
            "inference_count": self.images,
            "execution_count": sum(count for count, _ in batches.values()),
            "inference_stats": {
                "success": self.success.to_dict(),
                "fail": self.failed.to_dict(),
                "queue": self.queue.to_dict(),
                "compute_input": {"count": self.success.count, "ns": 0},
                "compute_infer": self.compute.to_dict(),
                "compute_output": {"count": self.success.count, "ns": 0},
                "cache_hit": none,
                "cache_miss": none,
            },
            "response_stats": {},
            "batch_stats": [
                {
                    "batch_size": images,
                    "compute_input": {"count": count, "ns": 0},
                    "compute_infer": {"count": count, "ns": round(seconds * 1e9)},
                    "compute_output": {"count": count, "ns": 0},
                }
                for images, (count, seconds) in sorted(batches.items())
            ],
            "memory_usage": [],
        }
