"""One aligned piece of memory a thread, in which the images of a batch are brought together, pixels normalised.

Relies on NumPy alone. What a client sent is copied once at the most: a batch of one float32 request not at all.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deps.serve.manifest import InputSpec

FloatArray = npt.NDArray[np.float32]

# A cache line: no image shares one with somebody else's memory.
ALIGNMENT = 64


def aligned_bytes(size: int, *, cut: int = 0) -> npt.NDArray[np.uint8]:
    """Return new memory, not zeroed, in which the byte at ``cut`` lies at the start of a cache line."""
    memory = np.empty(size + ALIGNMENT, dtype=np.uint8)
    address, _ = memory.__array_interface__["data"]
    start = -(address + cut) % ALIGNMENT
    return memory[start : start + size]


class SmallPieces:
    """Small aligned pieces of memory, cut one after the other from larger blocks: a block of its own costs more.

    A piece keeps its block from being freed, so this is for what is short-lived.
    """

    BLOCK_BYTES = 1 << 18

    def __init__(self) -> None:
        self._block = memoryview(b"")
        self._used = 0

    def cut(self, size: int, *, cut: int = 0) -> memoryview:
        """Return memory, not zeroed, in which the byte at ``cut`` lies at the start of a cache line."""
        start = self._used + -(self._used + cut) % ALIGNMENT
        if start + size > len(self._block):
            if size + ALIGNMENT > self.BLOCK_BYTES:
                return aligned_bytes(size, cut=cut).data
            self._block = aligned_bytes(self.BLOCK_BYTES).data
            start = -cut % ALIGNMENT
        self._used = start + size
        return self._block[start : self._used]


class Staging:
    """The memory where batches are gathered; every thread has its own."""

    def __init__(self, spec: InputSpec) -> None:
        """Take nothing yet.

        Args:
            spec: shape and normalisation of the input.
        """
        channels = spec.shape[0]
        std = np.array(spec.std, dtype=np.float64).reshape(channels, 1, 1)
        mean = np.array(spec.mean, dtype=np.float64).reshape(channels, 1, 1)
        self._shape = spec.shape
        self._scale = (1 / (255 * std)).astype(np.float32)
        self._shift = (-mean / std).astype(np.float32)
        self._own = threading.local()
        self.blank = np.zeros((1, *spec.shape), dtype=np.uint8)
        """One image of black pixels."""

    def place(self, images: int) -> FloatArray:
        """Return memory for a batch, shape (images, C, H, W), aligned; valid until this thread asks for more."""
        held: FloatArray | None = getattr(self._own, "memory", None)
        if held is None or len(held) < images:
            count = images * int(np.prod(self._shape))
            held = aligned_bytes(4 * count).view(np.float32).reshape(images, *self._shape)
            self._own.memory = held
        return held[:images]

    def write(self, images_NCHW: npt.NDArray[Any], place_NCHW: FloatArray) -> None:
        """Copy the images of one request to their place in a batch; uint8 pixels become (pixel / 255 - mean) / std."""
        if images_NCHW.dtype == np.uint8:
            np.multiply(images_NCHW, self._scale, out=place_NCHW)
            np.add(place_NCHW, self._shift, out=place_NCHW)
        else:
            np.copyto(place_NCHW, images_NCHW)

    def gather(self, parts: Sequence[npt.NDArray[Any]], place_NCHW: FloatArray) -> FloatArray:
        """Bring the images of several requests together, in order, and return the batch."""
        first = 0
        for part in parts:
            self.write(part, place_NCHW[first : first + len(part)])
            first += len(part)
        return place_NCHW


def is_ready(images_NCHW: npt.NDArray[Any]) -> bool:
    """Return whether an engine can read the images where they are."""
    flags = images_NCHW.flags
    return images_NCHW.dtype == np.float32 and flags.c_contiguous and flags.aligned
