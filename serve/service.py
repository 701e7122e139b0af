"""A bundle being served: its subnets loaded side by side, the queue before them, and the answers.

Relies on ``family.py`` for the engines and on ``runner.py`` for their threads; knows images and logits, and nothing of
protocols. A service is opened and closed from any thread; ``infer`` belongs to an event loop.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deps.serve.bundle import Bundle, read_bundle
from deps.serve.choose import Choice
from deps.serve.computed import AnsweredBy, Computed
from deps.serve.estimates import Estimates
from deps.serve.family import (
    START_BUDGET_S,
    EngineOptions,
    Member,
    accuracy_order,
    first_curve,
    give_back_memory,
    open_family,
)
from deps.serve.jobs import Job
from deps.serve.refusals import RefusedError
from deps.serve.runner import Runner
from deps.serve.scheduler import DEFAULT_QUEUE_IMAGES, Ladder, Scheduler
from deps.serve.staging import Staging

ANSWER_S = 0.001
"""Kept of every deadline for handing the answer over and sending it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions(EngineOptions):
    """What a user may decide about how a bundle is served."""

    max_queue_images: int = DEFAULT_QUEUE_IMAGES
    """Most images that may wait."""

    deadline_s: float | None = None
    """Deadline of a request that brings none, counted from its arrival; None gives such a request all the time."""

    workers: int = 1
    """Engine threads, each of which runs a batch at a time."""


class Service:
    """One served model: a single subnet, or a family that shares the queue."""

    def __init__(self, bundle: Bundle, members: tuple[Member, ...], options: ServeOptions) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.subnets = members
        """In the manifest's order; answers name one of them."""

        self._options = options
        self._accuracies = accuracy_order(members)
        self._is_draining = False
        self._users = 0
        self._settle_on: tuple[asyncio.AbstractEventLoop, Callable[[list[Job]], None]] | None = None
        self._unused = threading.Condition()
        # Until batches were timed, multiply-adds tell which engine is faster: 10 GFLOP/s on any machine of today.
        guesses = [max(1e-5, member.choice.subnet.flops / 1e10) for member in members]
        curves = [
            [images * guess for images in range(member.engine.max_batch + 1)]
            for member, guess in zip(members, guesses, strict=True)
        ]
        scheduler = Scheduler(
            Estimates(curves),
            Ladder.of(self._accuracies, guesses),
            max_queue_images=max(options.max_queue_images, *(member.engine.max_batch for member in members)),
            workers=options.workers,
        )
        self._runner = Runner(
            [member.engine for member in members], scheduler, Staging(self.manifest.input), workers=options.workers
        )

    @classmethod
    def open(cls, path: Path | str, options: ServeOptions | None = None) -> Service:
        """Open a bundle, load its subnets, and run blank images so that the first request is fast and its time known.

        Raises:
            BundleError: the bundle is incomplete, altered or unsafe.
            TargetError: the target is unknown here.
            EngineError: nothing here can run it.
        """
        options = options or ServeOptions()
        bundle = read_bundle(path)
        service = cls(bundle, open_family(bundle, options), options)
        try:
            service._learn_times()
            give_back_memory(service.subnets)
        except BaseException:
            service.close()
            raise
        return service

    def _learn_times(self) -> None:
        """Run every engine on its own threads, which own what is made there, and start from what that took."""

        def timed(engine: int) -> Callable[[int], float]:
            def run(images: int) -> float:
                blank_NCHW = np.zeros((images, *self.manifest.input.shape), dtype=np.float32)
                return self._runner.ask(blank_NCHW, pin=engine).result().computed_s

            return run

        budget_s = START_BUDGET_S / len(self.subnets)
        curves = [first_curve(member, timed(engine), budget_s) for engine, member in enumerate(self.subnets)]
        self._runner.restart_estimates(Estimates(curves), Ladder.of(self._accuracies, [curve[1] for curve in curves]))

    def on_batch(self, told: Callable[[str, int, float], None]) -> None:
        """Tell a listener of every batch, on an engine's thread: the subnet's name, its images and its seconds."""
        self._runner.on_batch = lambda engine, images, seconds: told(self.subnets[engine].name, images, seconds)

    @property
    def default(self) -> Member:
        """The subnet that answers when time does not matter: the most accurate."""
        return self.subnets[self._runner.scheduler.top]

    @property
    def by(self) -> AnsweredBy:
        """What answers of the default subnet say of who computed them."""
        return self.default.by

    @property
    def choice(self) -> Choice:
        """What runs the default subnet, and why."""
        return self.default.choice

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return self._runner.is_accepting and not self._is_draining

    def begin_drain(self) -> None:
        """Say that no more requests should come; those that come all the same are still answered."""
        self._is_draining = True

    def close(self) -> None:
        """Let every request that was begun end, answer what waits, then give the engines back.

        To replace a service: open the new one, let new requests find it, then close the old one from a thread. Requests
        that found the old one before, and took a ``lease`` at once, are answered by it.
        """
        self.begin_drain()
        with self._unused:
            self._unused.wait_for(lambda: self._users == 0)
        self._runner.close()

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Keep the service open while the block runs; ``infer`` does so by itself."""
        self._begin_use()
        try:
            yield
        finally:
            self._end_use()

    def _begin_use(self) -> None:
        with self._unused:
            self._users += 1

    def _end_use(self) -> None:
        with self._unused:
            self._users -= 1
            if self._is_draining:
                self._unused.notify_all()

    async def infer(
        self,
        images_NCHW: npt.NDArray[Any],
        *,
        arrival: float | None = None,
        timeout_s: float = math.inf,
        subnet: str | None = None,
    ) -> Computed:
        """Compute the logits of one request; cancelling costs the engines nothing if its batch did not begin.

        Args:
            images_NCHW: at least one image: float32 as the models take them, or uint8 pixels, normalised here.
            arrival: when the request arrived, by ``time.monotonic``; now when None.
            timeout_s: seconds from the arrival within which the answer is of use.
            subnet: name of the one subnet that shall answer.

        Raises:
            RefusedError: nothing can answer in time, or too much waits already (503, with when to try again); too many
                images (400); no such subnet (404).
            EngineError: the engine failed.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def told(_: Job) -> None:
            if not waiter.done():
                waiter.set_result(None)

        job = self.submit(images_NCHW, told, arrival=arrival, timeout_s=timeout_s, subnet=subnet)
        try:
            await waiter
        except asyncio.CancelledError:
            self.cancel(job)
            raise
        return self.computed(job)

    def submit(
        self,
        images_NCHW: npt.NDArray[Any],
        told: Callable[[Job], None],
        *,
        arrival: float | None = None,
        timeout_s: float = math.inf,
        subnet: str | None = None,
    ) -> Job:
        """Queue one request, and have ``told`` called on this event loop once ``computed`` knows what came of it.

        For who has no task to wait in; arguments and errors as for ``infer``.
        """
        runner = self._runner
        loop = asyncio.get_running_loop()
        arrived = runner.now() if arrival is None else arrival
        if timeout_s == math.inf and self._options.deadline_s is not None:
            timeout_s = self._options.deadline_s
        pin = self._pin_of(subnet)
        if timeout_s == math.inf:
            deadline, pin = math.inf, runner.scheduler.top if pin is None else pin
        else:
            deadline = arrived + timeout_s - ANSWER_S
        job = Job(
            images=images_NCHW,
            size=len(images_NCHW),
            arrival=arrived,
            settle=self._settler(loop),
            deadline=deadline,
            pin=pin,
            waiter=told,
        )
        self._begin_use()
        try:
            lent = runner.submit(job, borrows=True)
        except BaseException:
            self._end_use()
            raise
        if lent is not None:  # run at the end of the loop's round, with whatever else this round brings
            loop.call_soon(self._work_lent, loop, lent)
        return job

    def _work_lent(self, loop: asyncio.AbstractEventLoop, worker: int) -> None:
        if self._runner.work_lent(worker):
            loop.call_soon(self._work_lent, loop, worker)

    def cancel(self, job: Job) -> None:
        """Forget a job: nobody is told of it any more, and it costs the engines nothing if its batch did not begin."""
        if job.waiter is not None:
            job.waiter = None
            self._runner.cancel(job)
            self._end_use()

    def computed(self, job: Job) -> Computed:
        """Return the answer to a job that was told of.

        Raises:
            RefusedError: it could not be answered in time after all; 503.
            EngineError: the engine failed.
        """
        reply = job.outcome
        if isinstance(reply, BaseException):
            raise reply
        assert reply is not None
        return Computed(reply.logits, self.subnets[reply.engine].by, reply.queued_s, reply.computed_s, reply.batch)

    def _tell(self, jobs: list[Job]) -> None:
        """Tell those who wait on this loop."""
        for job in jobs:
            told, job.waiter = job.waiter, None
            if told is not None:
                self._end_use()
                told(job)

    def _pin_of(self, subnet: str | None) -> int | None:
        if subnet is None:
            return None
        names = [member.name for member in self.subnets]
        if subnet not in names:
            known = ", ".join(names)
            raise RefusedError(f"there is no subnet {subnet!r} here; expected one of {known}", status=404)
        return names.index(subnet)

    def _settler(self, loop: asyncio.AbstractEventLoop) -> Callable[[list[Job]], None]:
        """Return what tells jobs of this loop their outcomes: always the same for the same loop."""
        known = self._settle_on
        if known is None or known[0] is not loop:
            home = threading.get_ident()

            def settle(jobs: list[Job]) -> None:
                if threading.get_ident() == home:
                    self._tell(jobs)
                    return
                try:
                    loop.call_soon_threadsafe(self._tell, jobs)
                except RuntimeError:  # the loop is closed: nobody waits there any more
                    return

            known = self._settle_on = (loop, settle)
        return known[1]

    def stats(self) -> dict[str, Any]:
        """Return the queue, and for every subnet its counts and the milliseconds that batches are thought to take."""
        told = self._runner.snapshot()
        accuracies = [member.accuracy for member in self.subnets]
        return {
            "queue_images": told.queue_images,
            "queue_requests": told.queue_requests,
            "refused": told.refused,
            "late": told.late,
            "subnets": [
                {
                    **member.by.parameters(),
                    "accuracy": accuracy,
                    "is_offered": engine in told.rungs,
                    "estimate_ms": estimate_ms,
                    **asdict(counts),
                }
                for engine, (member, accuracy, counts, estimate_ms) in enumerate(
                    zip(self.subnets, accuracies, told.counts, told.estimate_ms, strict=True)
                )
            ],
        }
