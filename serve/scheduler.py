"""Decide who is let in, which subnet answers next, and with whom: deadlines kept at the highest accuracy.

Relies on ``estimates.py`` for what a batch takes; has no thread and no clock, so the same rules run in a simulation.
The earliest deadline goes first. The subnet is the most accurate one with which all that waits would still be in time:
after SlackFit (SuperServe, NSDI 2025), but judged by the whole queue rather than by its head alone.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deps.serve.estimates import STALE_S, Estimates
from deps.serve.refusals import RefusedError

DEFAULT_QUEUE_IMAGES = 256

PATIENCE_S = 1.0
"""A request without a deadline takes its turn as if it had this one, but is never late."""

AIM = 0.5
"""Share of its time within which the choice of subnet wants a request answered; the rest is reserve."""


# An idle engine whose times decide about requests is run on a blank image when it was not run for so long: otherwise
# one slow moment could make it look too slow for ever. Sooner when requests were just refused for lack of time.
_PROBE_S = 2.0
_PROBE_REFUSING_S = 0.1


@dataclass(slots=True, eq=False)
class Job:
    """Images of one request, waiting."""

    images: npt.NDArray[Any]
    """Shape (N, C, H, W): float32 as the model takes them, or uint8 pixels."""

    size: int
    """N."""

    arrival: float
    """Moment of its arrival, by the clock that the scheduler is asked with."""

    settle: Callable[[list[Job]], None]
    """Told of jobs that have an outcome, all of one batch that name it at once, on whatever thread it comes about."""

    deadline: float = math.inf
    """Moment after which nobody wants the answer."""

    pin: int | None = None
    """The engine that must answer; None leaves the choice."""

    is_cancelled: bool = False
    """Whether nobody waits for it any more."""

    waiter: Any = None
    """Whatever ``settle`` needs to find who waits."""

    outcome: Reply | BaseException | None = None
    """What came of it."""

    goal: float = field(init=False)
    """Moment by which the choice of subnet wants it answered."""

    turn: tuple[float, int] = field(init=False, default=(0.0, 0))
    """Place in the queue: earliest deadline first, then first come."""

    def __post_init__(self) -> None:
        self.goal = self.arrival + AIM * (self.deadline - self.arrival)


class Reply(NamedTuple):
    """What came of a request."""

    logits: npt.NDArray[np.float32]
    """Shape (N, V)."""

    engine: int
    """Which engine answered."""

    batch: int
    """Images in the batch it was part of."""

    queued_s: float
    """From arrival to the start of its batch."""

    computed_s: float
    """From the start of its batch to the end."""


class Batch(NamedTuple):
    """What runs next, and on which engine."""

    engine: int
    jobs: list[Job]
    images: int
    until: float
    """When it should be done."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """The engines of a family from the most accurate down, without those that another beats in both respects."""

    rungs: tuple[int, ...]

    @classmethod
    def of(cls, accuracies: Sequence[float], seconds: Sequence[float]) -> Ladder:
        """Order engines by accuracy; one that is slower than a more accurate one is left out."""
        rungs: list[int] = []
        fastest = math.inf
        for engine in sorted(range(len(seconds)), key=lambda engine: (-accuracies[engine], seconds[engine])):
            if seconds[engine] < fastest:
                rungs.append(engine)
                fastest = seconds[engine]
        return cls(tuple(rungs))


def _turn(job: Job) -> tuple[float, int]:
    return job.turn


class Scheduler:
    """The queue of one family and its rules; the caller holds a lock around every method."""

    def __init__(
        self,
        estimates: Estimates,
        ladder: Ladder,
        *,
        max_queue_images: int = DEFAULT_QUEUE_IMAGES,
        workers: int = 1,
    ) -> None:
        """Start empty.

        Args:
            estimates: what a batch takes on each engine; fed by the caller.
            ladder: the engines to choose from.
            max_queue_images: most images that may wait.
            workers: how many batches run at the same time.
        """
        self.estimates = estimates
        self.ladder = ladder
        self.max_queue_images = max_queue_images
        self.waiting_images = 0
        self._queue: list[Job] = []
        self._images = [0] * len(estimates.best)  # that wait, by the quickest engine that may answer them
        self._with_deadline = 0
        self._busy_until = [0.0] * workers
        self._count = itertools.count()
        self._last_deadline = -math.inf  # when a request with a deadline was last asked about
        self._last_refusal = -math.inf  # when one was last refused for lack of time

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def top(self) -> int:
        """The engine that answers when time does not matter: the most accurate."""
        return self.ladder.rungs[0]

    @property
    def fastest(self) -> int:
        """The engine that answers when nothing better is in time."""
        return self.ladder.rungs[-1]

    def admit(self, job: Job, now: float) -> None:
        """Let a job wait, if it will be answered in time and nobody who waits already becomes late by it.

        Raises:
            RefusedError: more images than may ever wait (400); the queue is full, or no subnet can answer in time (503,
                with the seconds after which the queue of now is done).
        """
        if job.size > self.max_queue_images:
            raise RefusedError(
                f"the request holds {job.size} images; expected at most {self.max_queue_images}; send them in parts"
            )
        if self.waiting_images + job.size > self.max_queue_images:
            raise RefusedError(
                f"{self.waiting_images} images wait already; expected at most {self.max_queue_images}; try later",
                status=503,
                retry_after_s=self.retry_after_s(now),
            )
        job.turn = (min(job.deadline, job.arrival + PATIENCE_S), next(self._count))
        if not self._queue or self._queue[-1].turn <= job.turn:
            place = len(self._queue)
        else:
            place = bisect.bisect(self._queue, job.turn, key=_turn)
        if job.deadline < math.inf:
            self._last_deadline = now
        if self._with_deadline or job.deadline < math.inf:
            try:
                self._check_time(job, place, now)
            except RefusedError:
                self._last_refusal = now
                raise
        self._queue.insert(place, job)
        self._count_in(job, 1)

    def _count_in(self, job: Job, sign: int) -> None:
        self.waiting_images += sign * job.size
        self._images[self._quickest(job)] += sign * job.size
        self._with_deadline += sign * (job.deadline < math.inf)

    def _check_time(self, job: Job, place: int, now: float) -> None:
        """Refuse a job that would be late, or would make one late that was let in before."""
        workers = len(self._busy_until)
        if place == len(self._queue):
            ahead_s = self._backlog_s(now)
        else:
            ahead_s = sum(self._work_s(other, now) for other in self._queue[:place]) / workers
        own_s = self.estimates.seconds(self._quickest(job), job.size, now)
        done = max(now, min(self._busy_until)) + ahead_s + own_s
        if done > job.deadline:
            raise RefusedError(
                f"no subnet can answer in {1e3 * (job.deadline - now):.3g} ms, {1e3 * (done - now):.3g} ms is the "
                "soonest; expected a later deadline or less load; try later",
                status=503,
                retry_after_s=self.retry_after_s(now),
            )
        for other in self._queue[place:]:
            done += self._work_s(other, now) / workers
            if other.deadline < done:
                raise RefusedError(
                    "requests that were accepted before would be late; expected a later deadline or less load; "
                    "try later",
                    status=503,
                    retry_after_s=self.retry_after_s(now),
                )

    def _quickest(self, job: Job) -> int:
        return self.fastest if job.pin is None else job.pin

    def _work_s(self, job: Job, now: float) -> float:
        """Return a job's share of the batches it will be in, at the least."""
        return job.size * self._image_s(self._quickest(job), now)

    def _image_s(self, engine: int, now: float) -> float:
        best = self.estimates.best[engine]
        return self.estimates.seconds(engine, best, now) / best

    def _backlog_s(self, now: float) -> float:
        """Return how long all that waits will take, each on the quickest engine that may answer it."""
        work_s = sum(images * self._image_s(engine, now) for engine, images in enumerate(self._images) if images)
        return work_s / len(self._busy_until)

    def retry_after_s(self, now: float) -> int:
        """Return whole seconds after which all that waits now should be answered, at least 1."""
        return max(1, math.ceil(max(0.0, min(self._busy_until) - now) + self._backlog_s(now)))

    def cancel(self, job: Job) -> None:
        """Forget a job that still waits; one that runs is answered to nobody."""
        job.is_cancelled = True
        place = bisect.bisect_left(self._queue, job.turn, key=_turn)
        if place < len(self._queue) and self._queue[place] is job:
            self._remove(place)

    def _remove(self, place: int) -> Job:
        job = self._queue.pop(place)
        self._count_in(job, -1)
        return job

    def drop_late(self, now: float) -> list[Job]:
        """Take out the jobs that cannot be answered in time any more; running them would only make others late."""
        late = []
        while self._queue and self._with_deadline:
            job = self._queue[0]
            if now + self.estimates.usual_seconds(self._quickest(job), min(job.size, 1), now) <= job.deadline:
                break
            late.append(self._remove(0))
        return late

    def take(self, now: float, worker: int = 0) -> Batch | None:
        """Take out the next batch for a worker that is free; None when nothing waits."""
        if not self._queue:
            return None
        head = self._queue[0]
        engine = head.pin if head.pin is not None else self._choose(now)
        jobs: list[Job] = []
        images, limit, earliest = 0, self.estimates.best[engine], math.inf
        place = 0
        while place < len(self._queue):
            job = self._queue[place]
            if job.pin is not None and job.pin != engine:
                place += 1
                continue
            earliest = min(earliest, job.deadline)
            if jobs and (
                images + job.size > limit or now + self.estimates.seconds(engine, images + job.size, now) > earliest
            ):
                break
            jobs.append(self._remove(place))
            images += job.size
        until = now + self.estimates.seconds(engine, images, now)
        self._busy_until[worker] = until
        return Batch(engine, jobs, images, until)

    def is_watchful(self, now: float) -> bool:
        """Tell whether requests with deadlines came lately, so that the engines' times matter even while idle."""
        return now - self._last_deadline <= STALE_S

    def probe(self, now: float) -> int | None:
        """Return an engine that should be run on a blank image, now that nothing waits; None when all are known."""
        if not self.is_watchful(now):
            return None
        if now - self._last_refusal < 1 and now - self.estimates.last_seen(self.fastest) > _PROBE_REFUSING_S:
            return self.fastest
        stalest = min(self.ladder.rungs, key=self.estimates.last_seen)
        return stalest if now - self.estimates.last_seen(stalest) > _PROBE_S else None

    def finished(self, worker: int, now: float) -> None:
        """Note that a worker is free."""
        self._busy_until[worker] = now

    def _choose(self, now: float) -> int:
        """Return the most accurate engine with which all that waits would meet its goal; else the fastest."""
        if not self._with_deadline:
            return self.top
        for engine in self.ladder.rungs[:-1]:
            if self._meets(engine, now):
                return engine
        return self.fastest

    def _meets(self, engine: int, now: float) -> bool:
        """Tell whether the whole queue, run on one engine from now on, would be answered by its goals."""
        estimates, workers = self.estimates, len(self._busy_until)
        limit = estimates.best[engine]
        done, images, soonest = now, 0, math.inf
        for job in self._queue:
            if job.pin is not None and job.pin != engine:
                done += self._work_s(job, now) / workers
                continue
            joined_s = estimates.seconds(engine, images + job.size, now)
            if images and (images + job.size > limit or done + joined_s > min(soonest, job.goal)):
                done += estimates.seconds(engine, images, now) / workers
                if done > soonest:
                    return False
                images, soonest = 0, math.inf
            images += job.size
            soonest = min(soonest, job.goal)
        return done + estimates.seconds(engine, images, now) <= soonest
