"""What one served model has done: requests, batches, times; statistics and metrics are both written from it.

Relies on every method being called from one thread, or on counts that differ by a few at the moment they are read: the
engine's thread tells of batches, the event loop of requests, and no number is written by both.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the latency histograms: a fast subnet on a GPU answers in less than a millisecond."""

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Upper bounds of the batch histogram, the sizes for which engines keep graphs."""


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

    def observe(self, value: float) -> None:
        """Count one observation; a value that equals a bound lies under it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass(slots=True)
class BatchTally:
    """Batches of one size."""

    count: int = 0
    infer_ns: int = 0


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
        self.batches: dict[int, BatchTally] = {}
        self.latency = Histogram(LATENCY_BUCKETS_S)
        self.waiting = Histogram(LATENCY_BUCKETS_S)
        self.batch_images = Histogram(tuple(float(bound) for bound in BATCH_BUCKETS))
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

    def ran(self, images: int, seconds: float) -> None:
        """Count one call of the engine; told by the engine's thread."""
        batch = self.batches.get(images)
        if batch is None:
            batch = self.batches[images] = BatchTally()
        batch.count += 1
        batch.infer_ns += round(seconds * 1e9)
        self.batch_images.observe(images)

    def to_dict(self, name: str, version: str) -> dict[str, Any]:
        """Return the statistics of one model as Triton's clients read them; perf_analyzer subtracts two of them."""
        none = Tally().to_dict()
        batches = sorted(self.batches.items())
        return {
            "name": name,
            "version": version,
            "last_inference": self.last_inference_ms,
            "inference_count": self.images,
            "execution_count": sum(batch.count for _, batch in batches),
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
                    "compute_input": {"count": batch.count, "ns": 0},
                    "compute_infer": {"count": batch.count, "ns": batch.infer_ns},
                    "compute_output": {"count": batch.count, "ns": 0},
                }
                for images, batch in batches
            ],
            "memory_usage": [],
        }
