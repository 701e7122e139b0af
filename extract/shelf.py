"""Batches of images that are read many times: kept in memory while they are few, in a temporary file while it is worth
it, and made anew each time beyond that.

Relies on the file being mapped into memory, so that the system drops its pages when memory is short: 2,000 images of
224 pixels are 1.2 GB.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, NamedTuple

import numpy as np
import torch
from torch import Tensor

IN_MEMORY = 256 * 2**20
"""Most bytes that are kept in memory."""

ON_DISK = 4 * 2**30
"""Most bytes that are kept in a file; more are decoded again for every reading."""


class _Kept(NamedTuple):
    """Where a batch stands in the file."""

    offset: int
    shape: tuple[int, ...]
    labels_N: Tensor


class Shelf:
    """Pairs of images (N, C, R, R), float32, and labels (N,)."""

    def __init__(
        self,
        make: Callable[[], Iterable[tuple[Tensor, Tensor]]],
        size_bytes: int,
        *,
        in_memory: int = IN_MEMORY,
        on_disk: int = ON_DISK,
    ) -> None:
        """Keep what ``make`` gives, once it was read.

        Args:
            make: gives all batches, the same each time.
            size_bytes: what the images take as float32.
            in_memory: most bytes to keep in memory.
            on_disk: most bytes to keep in a file.
        """
        self._make = make
        self._is_small, self._is_kept = size_bytes <= in_memory, size_bytes <= on_disk
        self._batches: list[tuple[Tensor, Tensor]] | None = None
        self._kept: list[_Kept] | None = None
        self._file: IO[bytes] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all batches; the first reading makes them."""
        if self._is_small:
            if self._batches is None:
                self._batches = list(self._make())
            yield from self._batches
        elif not self._is_kept:
            yield from self._make()
        elif self._kept is None:
            yield from self._written()
        else:
            for kept in self._kept:
                yield self._read(kept), kept.labels_N

    def _written(self) -> Iterator[tuple[Tensor, Tensor]]:
        kept, offset = [], 0
        self._close()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the shelf
        for x_NCHW, labels_N in self._make():
            content = x_NCHW.cpu().contiguous().numpy().tobytes()
            self._file.write(content)
            kept.append(_Kept(offset, tuple(x_NCHW.shape), labels_N))
            offset += len(content)
            yield x_NCHW, labels_N
        self._file.flush()
        self._kept = kept  # only a reading to the end is kept

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __del__(self) -> None:
        self._close()

    def _read(self, kept: _Kept) -> Tensor:
        assert self._file is not None
        # Copied on writing, which never happens: torch asks for memory that could be written.
        mapped = np.memmap(self._file, np.float32, mode="c", offset=kept.offset, shape=kept.shape)
        return torch.from_numpy(mapped)
