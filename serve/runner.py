"""The engine threads: they run what the scheduler hands them, and never idle while a request waits.

Relies on engines releasing the interpreter lock while they compute. Work-conserving: a thread that is free takes what
waits at once; a fixed batching window was measured to cost much and gain nothing.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deps.serve.engines.base import Engine, FloatArray
from deps.serve.estimates import Estimates
from deps.serve.jobs import Batch, Job, Reply
from deps.serve.refusals import RefusedError
from deps.serve.scheduler import Ladder, Scheduler
from deps.serve.staging import Staging, is_ready

_LOG = logging.getLogger("deps.serve")

# How often idle engines are thought of while requests with deadlines come.
_WATCH_S = 0.25

# Waking a thread costs more than batches below this are worth: whoever asks may run them.
LEND_S = 0.003
_GIVEN_BACK_S = 1.0


@dataclass(slots=True)
class EngineCounts:
    """What one engine has done since the start."""

    requests: int = 0
    """Requests answered."""

    images: int = 0
    """Images of those requests."""

    failed: int = 0
    """Requests whose batch failed."""

    queued_s: float = 0.0
    """Seconds that answered requests waited, all together."""

    computed_s: float = 0.0
    """Seconds that the engine was busy."""

    batches: dict[int, tuple[int, float]] = field(default_factory=dict)
    """By images in a batch: how many such batches ran, and their seconds."""

    def add(self, batch: Batch, computed_s: float, queued_s: float) -> None:
        """Count one batch that was answered."""
        self.requests += len(batch.jobs)
        self.images += batch.images
        self.computed_s += computed_s
        self.queued_s += queued_s
        ran, spent_s = self.batches.get(batch.images, (0, 0.0))
        self.batches[batch.images] = (ran + 1, spent_s + computed_s)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A runner at one moment."""

    queue_images: int
    queue_requests: int
    refused: int
    """Requests that were not let in, since the start."""

    late: int
    """Requests that were let in and dropped before they ran, since no engine could answer them in time any more."""

    rungs: tuple[int, ...]
    """Engines that the scheduler chooses from, the most accurate first."""

    counts: tuple[EngineCounts, ...]
    """By engine."""

    estimate_ms: tuple[dict[int, float], ...]
    """By engine, what batches of 1, 2, 4, … images are thought to take."""


class Runner:
    """Owns the engines of a family, the queue before them, and the threads that use them."""

    def __init__(
        self,
        engines: Sequence[Engine],
        scheduler: Scheduler,
        staging: Staging,
        *,
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engines = tuple(engines)
        self.scheduler = scheduler
        self._counts = [EngineCounts() for _ in engines]
        self._refused = 0
        self._late = 0
        self.on_batch: Callable[[int, int, float], None] | None = None
        """Told, on the engine's thread, of every batch: the engine, its images and its seconds."""

        self._staging = staging
        self._clock = clock
        self._is_closing = False
        self._changed = threading.Condition()
        self._resting: set[int] = set()  # workers whose threads wait for something to do
        self._lent: set[int] = set()  # of these, the ones that somebody else does the work of for now
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"engine-{worker}", daemon=True)
            for worker in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_accepting(self) -> bool:
        """Whether new requests are taken."""
        return not self._is_closing

    @property
    def waiting_images(self) -> int:
        """How many images wait for an engine."""
        return self.scheduler.waiting_images

    def now(self) -> float:
        """Return the moment by the runner's clock, which deadlines are told in."""
        return self._clock()

    def submit(self, job: Job, *, borrows: bool = False) -> int | None:
        """Queue a job; its ``settle`` is called once it has an outcome.

        Args:
            job: the request.
            borrows: the caller is ready to do the work of a worker, which saves waking a thread.

        Returns:
            The worker that is lent to the caller, who must call ``work_lent`` soon, and again until it returns False;
            None when a thread runs the job.

        Raises:
            RefusedError: it cannot be answered in time, too much waits already, or the runner is closing (503), or more
                images than may ever wait (400).
        """
        with self._changed:
            if self._is_closing:
                raise RefusedError("the server is shutting down; expected a running one; try another", status=503)
            try:
                self.scheduler.admit(job, self._clock())
            except RefusedError:
                self._refused += 1
                raise
            if self._lent:
                return None  # whoever borrowed it takes this job as well
            if borrows and self._resting and self._is_short(job):
                worker = min(self._resting)
                self._lent.add(worker)
                return worker
            self._changed.notify()
            return None

    def _is_short(self, job: Job) -> bool:
        """Tell whether a job that waits first, and what waits with it, runs in an instant, on whatever thread."""
        engine = self.scheduler.top if job.pin is None else job.pin
        estimates = self.scheduler.estimates
        images = max(job.size, min(self.scheduler.waiting_images, estimates.best[engine]))
        if images > self.engines[engine].max_batch or not self.engines[engine].runs_on_any_thread:
            return False
        return estimates.usual_seconds(engine, images, job.arrival) < LEND_S

    def work_lent(self, worker: int) -> bool:
        """Run one batch in the place of a worker that was lent.

        Returns:
            Whether more waits that is worth no waking: then the worker is still lent, and this is to be called again
            soon. Otherwise it is given back.
        """
        is_kept = False
        with self._changed:
            now = self._clock()
            late = self.scheduler.drop_late(now)
            # The round may have brought more than one instant's work: then a thread does it, and the loop reads on.
            head = self.scheduler.head
            is_short = head is not None and self._is_short(head)
            batch = self.scheduler.take(now, worker, longest_trial=LEND_S) if is_short else None
        try:
            if late:
                self._refuse_late(late)
            if batch is not None:
                self._run(batch, worker, now)
        finally:
            with self._changed:
                head = self.scheduler.head
                is_kept = head is not None and not self._is_closing and self._is_short(head)
                if not is_kept:
                    self._lent.discard(worker)
                    if self._is_closing or head is not None:
                        self._changed.notify_all()
        return is_kept

    def ask(
        self, images_NCHW: npt.NDArray[Any], *, deadline: float = math.inf, pin: int | None = None
    ) -> Future[Reply]:
        """Queue images from a thread that may block, and return the promise of their logits.

        Raises:
            RefusedError: as ``submit``.
        """
        answer: Future[Reply] = Future()
        job = Job(
            images=images_NCHW,
            size=len(images_NCHW),
            arrival=self._clock(),
            settle=_resolve,
            deadline=deadline,
            pin=pin,
            waiter=answer,
        )
        self.submit(job)
        answer.add_done_callback(lambda done: self.cancel(job) if done.cancelled() else None)
        return answer

    def cancel(self, job: Job) -> None:
        """Forget a job; if it did not run yet, it costs nothing."""
        with self._changed:
            self.scheduler.cancel(job)

    def restart_estimates(self, estimates: Estimates, ladder: Ladder) -> None:
        """Forget what was learnt of the engines, and counted; batches that were run to learn are nobody's requests."""
        with self._changed:
            self.scheduler.estimates, self.scheduler.ladder = estimates, ladder
            self._counts = [EngineCounts() for _ in self.engines]

    def snapshot(self) -> Snapshot:
        """Return the queue, the counts and the estimates of this moment."""
        with self._changed:
            return Snapshot(
                queue_images=self.scheduler.waiting_images,
                queue_requests=len(self.scheduler),
                refused=self._refused,
                late=self._late,
                rungs=self.scheduler.ladder.rungs,
                counts=tuple(replace(counts, batches=dict(counts.batches)) for counts in self._counts),
                estimate_ms=tuple(self.scheduler.estimates.snapshot(self._clock())),
            )

    def close(self) -> None:
        """Take no more requests, answer those that wait, and give the engines back."""
        with self._changed:
            self._is_closing = True
            # Whoever borrowed a worker gives it back within a batch, unless the loop that was to call it is closed.
            self._changed.wait_for(lambda: not self._lent, timeout=_GIVEN_BACK_S)
            self._lent.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for engine in self.engines:
            engine.close()

    def _work(self, worker: int) -> None:
        while True:
            probed: int | None = None
            with self._changed:
                while True:
                    now = self._clock()
                    if worker in self._lent:
                        self._changed.wait(_WATCH_S)
                        continue
                    late = self.scheduler.drop_late(now)
                    batch = self.scheduler.take(now, worker)
                    if batch is not None or late:
                        break
                    if self._is_closing:
                        return
                    probed = self.scheduler.probe(now)
                    if probed is not None:
                        break
                    self._resting.add(worker)
                    self._changed.wait(_WATCH_S if self.scheduler.is_watchful(now) else None)
                    self._resting.discard(worker)
            if late:
                self._refuse_late(late)
            if batch is not None:
                self._run(batch, worker, now)
            elif not late and probed is not None:
                self._probe(probed, now)

    def _probe(self, engine: int, start: float) -> None:
        """Learn anew how long an engine takes for one image."""
        try:
            self._infer(self.engines[engine], [self._staging.blank], 1)
        except Exception:  # a request will meet the same failure, and tell it to somebody
            _LOG.exception("the engine of %s failed on a blank image", self.engines[engine].subnet)
        end = self._clock()
        with self._changed:
            self.scheduler.estimates.observe(engine, 1, end - start, end)

    def _refuse_late(self, late: list[Job]) -> None:
        self._late += len(late)
        for job in late:
            job.outcome = RefusedError(
                "no answer was possible within the request's time; expected a later deadline or less load; try again",
                status=503,
                retry_after_s=1,
            )
        _settle(late)

    def _run(self, batch: Batch, worker: int, start: float) -> None:
        """Compute one batch, tell the scheduler how long it took, and hand the rows to those who asked."""
        try:
            logits_NV = self._infer(self.engines[batch.engine], [job.images for job in batch.jobs], batch.images)
        except Exception as error:
            for job in batch.jobs:
                job.outcome = error
            with self._changed:
                self._counts[batch.engine].failed += len(batch.jobs)
                self.scheduler.finished(worker, self._clock())
            _settle(batch.jobs)
            return
        end = self._clock()
        seconds = end - start
        first = 0
        for job in batch.jobs:
            rows_NV = logits_NV[first : first + job.size]
            job.outcome = Reply(rows_NV, batch.engine, batch.images, start - job.arrival, seconds)
            first += job.size
        with self._changed:
            self.scheduler.finished(worker, end)
            if batch.images <= self.engines[batch.engine].max_batch:
                self.scheduler.estimates.observe(batch.engine, batch.images, seconds, end)
            self._counts[batch.engine].add(batch, seconds, sum(start - job.arrival for job in batch.jobs))
        _settle(batch.jobs)
        if self.on_batch is not None:
            self.on_batch(batch.engine, batch.images, seconds)

    def _infer(self, engine: Engine, parts: list[npt.NDArray[Any]], images: int) -> FloatArray:
        if images > engine.max_batch:  # one request, larger than a batch
            (whole,) = parts
            step = engine.max_batch
            firsts = range(0, images, step)
            return np.concatenate(
                [self._infer(engine, [whole[at : at + step]], min(step, images - at)) for at in firsts]
            )
        place_NCHW = engine.place(images)
        if place_NCHW is None:
            if len(parts) == 1 and is_ready(parts[0]):
                return engine.infer(parts[0])
            place_NCHW = self._staging.place(images)
        return engine.infer(self._staging.gather(parts, place_NCHW))


def _settle(jobs: list[Job]) -> None:
    """Tell each group of jobs that share a ``settle`` of their outcomes, in one call."""
    settle = jobs[0].settle
    if all(job.settle is settle for job in jobs):
        settle(jobs)
        return
    groups: dict[Callable[[list[Job]], None], list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.settle, []).append(job)
    for settle, group in groups.items():
        settle(group)


def _resolve(jobs: list[Job]) -> None:
    """Keep the promises that ``Runner.ask`` gave."""
    for job in jobs:
        answer: Future[Reply] = job.waiter
        if not answer.set_running_or_notify_cancel():
            continue
        if isinstance(job.outcome, BaseException):
            answer.set_exception(job.outcome)
        else:
            assert job.outcome is not None
            answer.set_result(job.outcome)
