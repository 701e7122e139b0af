"""Decide who is let in, which subnet answers next, and with whom: deadlines kept at the highest accuracy.

Relies on ``estimates.py`` for what a batch takes and on ``plan.py`` for what that means for a queue; has no thread and
no clock, so the same rules run in a simulation. The earliest deadline goes first. The subnet is the most accurate one
with which all that waits would still be in time: after SlackFit (SuperServe, NSDI 2025), but judged by the whole queue
rather than by its head alone.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deps.serve.estimates import STALE_S, Estimates
from deps.serve.jobs import Batch, Job
from deps.serve.plan import Plan
from deps.serve.refusals import RefusedError

DEFAULT_QUEUE_IMAGES = 256

PATIENCE_S = 1.0
"""A request without a deadline takes its turn as if it had this one, but is never late."""

# An idle engine whose times decide about requests is run on a blank image when it was not run for so long: otherwise
# one slow moment could make it look too slow for ever. Sooner when requests were just refused for lack of time.
_PROBE_S = 2.0
_PROBE_REFUSING_S = 0.1


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
        self._with_deadline = 0
        self._busy_until = [0.0] * workers
        self._count = itertools.count()
        self._plan: Plan | None = None  # of the whole queue; None when it is not known any more
        self._last_deadline = -math.inf  # when a request with a deadline was last asked about
        self._last_refusal = -math.inf  # when one was last refused for lack of time

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def head(self) -> Job | None:
        """The job that waits first in turn."""
        return self._queue[0] if self._queue else None

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
        try:
            if self._with_deadline or job.deadline < math.inf:
                self._check_time(job, place, now)
        except RefusedError:
            self._last_refusal = now
            raise
        if place == len(self._queue) and self._plan is not None:
            self._plan.add(job.size, self._quickest(job), job.deadline)
        else:
            self._plan = None
        self._queue.insert(place, job)
        self._count_in(job, 1)

    def _count_in(self, job: Job, sign: int) -> None:
        self.waiting_images += sign * job.size
        self._with_deadline += sign * (job.deadline < math.inf)

    def _check_time(self, job: Job, place: int, now: float) -> None:
        """Refuse a job that would be late, or would make one late that was let in before."""
        last = place == len(self._queue)
        plan = self._planned(now) if last else self._plan_for(self._queue[:place], now)
        engine = self._quickest(job)
        own = plan.look(job.size, engine, job.deadline)
        done = own.done
        if own.opens and not plan.is_empty:
            # Whoever opens a batch leaves time for as many as wait now to join it. Let in at the last moment it would
            # run alone, and under too much load all would: at a fraction of the throughput.
            done = max(done, plan.filled_done(engine, self.waiting_images + job.size))
        if done > job.deadline:
            raise RefusedError(
                f"no subnet can answer in {1e3 * (job.deadline - now):.3g} ms, {1e3 * (done - now):.3g} ms is the "
                "soonest; expected a later deadline or less load; try later",
                status=503,
                retry_after_s=self.retry_after_s(now),
            )
        if last:
            return
        plan.add(job.size, engine, job.deadline)
        if not self._in_time(plan, self._queue[place:]):
            raise RefusedError(
                "requests that were accepted before would be late; expected a later deadline or less load; try later",
                status=503,
                retry_after_s=self.retry_after_s(now),
            )

    def _quickest(self, job: Job) -> int:
        return self.fastest if job.pin is None else job.pin

    def _planned(self, now: float) -> Plan:
        """Return the plan of the whole queue, each job on the quickest engine that may answer it."""
        if self._plan is None or not self._plan.holds(self.estimates, max(now, min(self._busy_until))):
            self._plan = self._plan_for(self._queue, now)
        return self._plan

    def _plan_for(self, jobs: Iterable[Job], now: float) -> Plan:
        plan = Plan(self.estimates, self._busy_until, now)
        for job in jobs:
            plan.add(job.size, self._quickest(job), job.deadline)
        return plan

    def _in_time(self, plan: Plan, jobs: Iterable[Job]) -> bool:
        """Tell whether these jobs too are in time when they are added to a plan."""
        return all(plan.add(job.size, self._quickest(job), job.deadline).done <= job.deadline for job in jobs)

    def retry_after_s(self, now: float) -> int:
        """Return whole seconds after which all that waits now should be answered, at least 1."""
        return max(1, math.ceil(self._planned(now).end - now))

    def cancel(self, job: Job) -> None:
        """Forget a job that still waits; one that runs is answered to nobody."""
        place = bisect.bisect_left(self._queue, job.turn, key=_turn)
        if place < len(self._queue) and self._queue[place] is job:
            self._remove(place)

    def _remove(self, place: int) -> Job:
        job = self._queue.pop(place)
        self._count_in(job, -1)
        self._plan = None
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

    def take(self, now: float, worker: int = 0, longest_trial: float = math.inf) -> Batch | None:
        """Take out the next batch for a worker that is free; None when nothing waits.

        Args:
            now: this moment.
            worker: who runs it.
            longest_trial: seconds beyond which no other size than the best is tried.
        """
        if not self._queue:
            return None
        self._busy_until[worker] = now
        places, engine, images = self._next_batch(now, worker, longest_trial)
        jobs = [self._queue[place] for place in places]
        if places[-1] == len(places) - 1:
            del self._queue[: len(places)]
        else:
            taken = set(places)
            self._queue = [job for place, job in enumerate(self._queue) if place not in taken]
        for job in jobs:
            self._count_in(job, -1)
        self._plan = None
        until = now + self.estimates.seconds(engine, images, now)
        self._busy_until[worker] = until
        return Batch(engine, jobs, images, until)

    def _next_batch(self, now: float, worker: int, longest_trial: float) -> tuple[list[int], int, int]:
        """Return the places in the queue of those who go next, the engine, and their images.

        The batch that the plan begins with is taken unless a better one leaves everybody else in time.
        """
        head = self._queue[0]
        if not self._with_deadline:
            # Nobody has a deadline, so a trial costs nobody an answer in time.
            engine = self.top if head.pin is None else head.pin
            limit = self.estimates.size(engine, self.waiting_images, now, longest_trial)
            return self._gather(engine, now, limit=limit)
        for engine in self.ladder.rungs[:-1] if head.pin is None else (head.pin,):
            if head.pin is not None or self._meets(engine, now):
                places, _, images = batch = self._gather(engine, now)
                plan = Plan(
                    self.estimates,
                    (
                        now + self.estimates.seconds(engine, images, now) if one == worker else busy
                        for one, busy in enumerate(self._busy_until)
                    ),
                    now,
                )
                taken = set(places)
                if self._in_time(plan, (job for place, job in enumerate(self._queue) if place not in taken)):
                    return batch
        return self._gather(self._quickest(head), now, as_planned=True)

    def _gather(
        self, engine: int, now: float, *, as_planned: bool = False, limit: int | None = None
    ) -> tuple[list[int], int, int]:
        """Return places of jobs that one batch can answer in time, the engine, and their images.

        Args:
            engine: the one that is to run them.
            now: the moment it starts.
            as_planned: join what the plan joins; otherwise jobs that need another engine are passed by, and those
                that may take any join whichever runs.
            limit: most images; the engine's best number when None.
        """
        places: list[int] = []
        images, earliest = 0, math.inf
        limit = self.estimates.best[engine] if limit is None else limit
        for place, job in enumerate(self._queue):
            if as_planned and self._quickest(job) != engine:
                break
            if job.pin is not None and job.pin != engine:
                continue
            earliest = min(earliest, job.deadline)
            joined = images + job.size
            if places and (joined > limit or now + self.estimates.seconds(engine, joined, now) > earliest):
                break
            places.append(place)
            images = joined
        return places, engine, images

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
        self._plan = None

    def _meets(self, engine: int, now: float) -> bool:
        """Tell whether the whole queue, run on one engine from now on, would be answered by its goals."""
        plan = Plan(self.estimates, self._busy_until, now)
        return all(
            plan.add(job.size, engine if job.pin is None else job.pin, job.goal).done <= job.goal for job in self._queue
        )
