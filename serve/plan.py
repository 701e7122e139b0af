"""What the engines will do with a queue, batch by batch, if each batch takes what is expected.

Relies on ``estimates.py`` for what a batch takes. Jobs are joined here by the rule by which the scheduler joins them,
so a job that a plan calls in time is answered in time unless a batch takes longer than it seldom does.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from typing import NamedTuple

from deps.serve.estimates import Estimates


class Place(NamedTuple):
    """What would become of one more job at the end of a plan."""

    done: float
    """When it would be answered."""

    opens: bool
    """Whether it would be the first of a batch."""


class Plan:
    """The batches of a queue in their order; grown job by job, in constant time each."""

    __slots__ = ("_engine", "_estimates", "_free", "_images", "_now", "_soonest", "_start", "_version")

    def __init__(self, estimates: Estimates, free: Iterable[float], now: float) -> None:
        """Start with an empty queue.

        Args:
            estimates: what a batch takes on each engine.
            free: for every worker, when it will have done what it does.
            now: the moment to plan from.
        """
        self._estimates = estimates
        self._version = estimates.version
        self._now = now
        self._free = [max(now, one) for one in free]
        heapq.heapify(self._free)
        self._engine, self._images, self._soonest = -1, 0, math.inf  # of the batch that is still open
        self._start = self._free[0]

    def holds(self, estimates: Estimates, start: float) -> bool:
        """Tell whether it was made with these estimates, as they still are, for a first batch at this moment."""
        return self._estimates is estimates and self._version == estimates.version and self._start == start

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added."""
        return not self._images

    @property
    def end(self) -> float:
        """When the last batch is done, or the first worker is free when there is none."""
        if not self._images:
            return self._free[0]
        return self._free[0] + self._estimates.seconds(self._engine, self._images, self._now)

    def look(self, size: int, engine: int, until: float) -> Place:
        """Return what would become of a job, without adding it.

        Args:
            size: its images.
            engine: which engine is to answer it.
            until: the latest moment for its answer; it joins no batch that would end later.
        """
        images = self._images
        if images and engine == self._engine and images + size <= self._estimates.best[engine]:
            done = self._free[0] + self._estimates.seconds(engine, images + size, self._now)
            if done <= min(self._soonest, until):
                return Place(done, opens=False)
        return Place(self._next_start() + self._estimates.seconds(engine, size, self._now), opens=True)

    def filled_done(self, engine: int, images: int) -> float:
        """Return when a batch would be done that is opened now and then joined by others, up to so many images."""
        filled = min(images, self._estimates.best[engine])
        return self._next_start() + self._estimates.seconds(engine, filled, self._now)

    def add(self, size: int, engine: int, until: float) -> Place:
        """Append a job, and return what will become of it; arguments as for ``look``."""
        place = self.look(size, engine, until)
        if place.opens:
            if self._images:
                heapq.heapreplace(self._free, self.end)
            self._engine, self._images, self._soonest = engine, size, until
        else:
            self._images += size
            self._soonest = min(self._soonest, until)
        return place

    def _next_start(self) -> float:
        """Return when a batch after the open one would start."""
        if not self._images:
            return self._free[0]
        others = self._free[1:3]  # in a heap, the second smallest is one of these
        return min(self.end, *others) if others else self.end
