"""The engine thread: joins waiting requests into batches and answers them, and never idles while one waits.

Relies on the engine releasing the interpreter lock while it computes. Work-conserving: the thread takes whatever waits,
up to the largest batch, the moment it is free; a fixed batching window was measured to cost much and gain nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from deps.serve.engines.base import Engine, FloatArray, infer_in_parts
from deps.serve.refusals import RefusedError

DEFAULT_QUEUE_IMAGES = 256

# Weight of the newest batch in the running mean of the time an image takes.
_SMOOTHING = 0.1


@dataclass(slots=True)
class _Job:
    """Images of one request, and the promise of their logits."""

    images: FloatArray
    """Shape (N, C, H, W)."""

    deadline: float
    """Moment after which nobody waits for the answer, by the runner's clock."""

    answer: Future[FloatArray] = field(default_factory=Future)


class Runner:
    """Owns an engine and the one thread that uses it."""

    def __init__(
        self,
        engine: Engine,
        *,
        max_queue_images: int = DEFAULT_QUEUE_IMAGES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self.max_queue_images = max(max_queue_images, engine.max_batch)
        self._clock = clock
        self._waiting: deque[_Job] = deque()
        self._waiting_images = 0
        self._seconds_per_image = 0.0
        self._is_closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_accepting(self) -> bool:
        """Whether new requests are taken."""
        return not self._is_closing

    def submit(self, images_NCHW: FloatArray, *, timeout_s: float = math.inf) -> Future[FloatArray]:
        """Queue the images of one request; a future that is cancelled before its turn costs nothing.

        Args:
            images_NCHW: at least one image; more than the engine's batch are computed in parts.
            timeout_s: longest wait for the engine; a request that waited longer is refused without being computed.

        Returns:
            The promise of the logits, shape (N, V), or of the engine's error.

        Raises:
            RefusedError: too many images wait already (503, with the seconds until they are done), more images than
                may ever wait (400), or the runner is closing (503).
        """
        images = len(images_NCHW)
        if images > self.max_queue_images:
            raise RefusedError(
                f"the request holds {images} images; expected at most {self.max_queue_images}; send them in parts"
            )
        with self._changed:
            if self._is_closing:
                raise RefusedError("the server is shutting down; expected a running one; try another", status=503)
            if self._waiting_images + images > self.max_queue_images:
                raise RefusedError(
                    f"{self._waiting_images} images wait already; expected at most {self.max_queue_images}; try later",
                    status=503,
                    retry_after_s=max(1, math.ceil(self._waiting_images * self._seconds_per_image)),
                )
            job = _Job(images_NCHW, self._clock() + timeout_s)
            self._waiting.append(job)
            self._waiting_images += images
            self._changed.notify()
        return job.answer

    def close(self) -> None:
        """Take no more requests, answer those that wait, and give the engine back."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        self.engine.close()

    def _work(self) -> None:
        while jobs := self._take():
            try:
                self._answer(jobs)
            except Exception as error:
                for job in jobs:
                    job.answer.set_exception(error)

    def _take(self) -> list[_Job]:
        """Wait for work, and return the jobs of the next batch; none when the runner is closed and all is answered."""
        taken: list[_Job] = []
        images = 0
        with self._changed:
            while not taken:
                while not self._waiting:
                    if self._is_closing:
                        return []
                    self._changed.wait()
                while self._waiting and (not taken or images + len(self._waiting[0].images) <= self.engine.max_batch):
                    job = self._waiting.popleft()
                    self._waiting_images -= len(job.images)
                    if self._is_wanted(job):
                        taken.append(job)
                        images += len(job.images)
        return taken

    def _is_wanted(self, job: _Job) -> bool:
        """Drop a job that was cancelled or came too late, and mark any other as running."""
        if not job.answer.set_running_or_notify_cancel():
            return False
        if self._clock() > job.deadline:
            refusal = RefusedError("the request waited longer than its timeout; try again, or allow more", status=503)
            job.answer.set_exception(refusal)
            return False
        return True

    def _answer(self, jobs: list[_Job]) -> None:
        images_NCHW = jobs[0].images if len(jobs) == 1 else np.concatenate([job.images for job in jobs])
        start = self._clock()
        logits_NV = infer_in_parts(self.engine, images_NCHW)
        seconds = (self._clock() - start) / len(images_NCHW)
        known = self._seconds_per_image or seconds
        self._seconds_per_image = known + _SMOOTHING * (seconds - known)
        first = 0
        for job in jobs:
            job.answer.set_result(logits_NV[first : first + len(job.images)])
            first += len(job.images)
