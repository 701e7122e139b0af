"""Decode the pictures that clients send: on threads of their own, and never more at a time than memory allows.

Relies on ``images.py``, which is loaded with the first picture: a server that is sent tensors only never loads Pillow.
A picture of 190 kB can hold 50 million pixels, which take 250 MB and a second of a core while they are decoded: without
the bounds below, two dozen of them took 2.5 GB and every other thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from deps.serve.engines.base import FloatArray
from deps.serve.manifest import InputSpec
from deps.serve.refusals import RefusedError

MAX_PICTURES = 64
"""Pictures that may wait to be decoded; each is held in memory."""

LARGE_PIXELS = 16_000_000
"""A picture of more is decoded alone: larger than a telephone's, and about 100 MB when it is decoded."""

TRIM_PIXELS = 4_000_000
"""After a picture of more, memory that it took goes back to the system: glibc would keep hundreds of megabytes."""

# One decodes while another's bytes are copied; more than a few would only share the cores with the engines.
_THREADS = min(4, max(2, os.cpu_count() or 1))


class Pictures:
    """What decodes pictures for one server."""

    def __init__(self) -> None:
        self._waiting = 0
        # Threads are made with the first picture.
        self._usual = ThreadPoolExecutor(_THREADS, "picture")
        self._alone = ThreadPoolExecutor(1, "large-picture")

    async def decode(self, content: bytes | memoryview, spec: InputSpec, until: float = math.inf) -> FloatArray:
        """Bring a picture into the model's shape; whoever stops waiting costs nothing if its turn did not come.

        Args:
            content: a JPEG or PNG file.
            spec: what the model takes.
            until: moment, by ``time.monotonic``, after which nobody wants the answer.

        Returns:
            One image, shape (C, H, W).

        Raises:
            RefusedError: no good picture (400, 413, 415), too many wait (503), or its time is over (503).
        """
        if self._waiting >= MAX_PICTURES:
            raise RefusedError(
                f"{self._waiting} pictures wait to be decoded; expected at most {MAX_PICTURES}; try later",
                status=503,
                retry_after_s=1,
            )
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            image_CHW = await loop.run_in_executor(self._usual, _decoded_unless_large, content, spec, until)
            if image_CHW is None:
                image_CHW = await loop.run_in_executor(self._alone, _decoded_alone, content, spec, until)
            return image_CHW
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the threads; pictures under way are finished."""
        self._usual.shutdown(wait=False)
        self._alone.shutdown(wait=False)


def _decoded_unless_large(content: bytes | memoryview, spec: InputSpec, until: float) -> FloatArray | None:
    from deps.serve.images import image_from_opened, open_image

    _check_time(until)
    image = open_image(content)
    width, height = image.size
    if width * height > LARGE_PIXELS:
        return None
    try:
        return image_from_opened(image, spec)
    finally:
        del image  # which holds what was decoded
        if width * height > TRIM_PIXELS:
            _give_memory_back()


def _decoded_alone(content: bytes | memoryview, spec: InputSpec, until: float) -> FloatArray:
    from deps.serve.images import image_from_bytes

    _check_time(until)
    try:
        return image_from_bytes(content, spec)
    finally:
        _give_memory_back()


def _give_memory_back() -> None:
    with suppress(OSError, AttributeError):  # only glibc keeps freed memory, and has this
        ctypes.CDLL(None).malloc_trim(0)


def _check_time(until: float) -> None:
    if time.monotonic() > until:
        raise RefusedError(
            "the deadline passed while the picture waited to be decoded; expected a later one, or less load",
            status=503,
            retry_after_s=1,
        )
