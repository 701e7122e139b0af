"""What every engine can do, whatever runs it.

Relies on the bundle's contract: float32 images in, one row of float32 logits an image out.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from deps.ground.errors import EngineError

FloatArray = npt.NDArray[np.float32]


class Engine(Protocol):
    """A loaded, runnable subnet; one thread at a time may call ``infer``."""

    @property
    def name(self) -> str:
        """The backend, with its version, e.g. ``"onnxruntime 1.20.1"``."""
        ...

    @property
    def subnet(self) -> str:
        """Name of the subnet it runs."""
        ...

    @property
    def precision(self) -> str:
        """Precision of the file it was made from."""
        ...

    @property
    def max_batch(self) -> int:
        """Most images that ``infer`` takes at once."""
        ...

    @property
    def warm_up_batches(self) -> tuple[int, ...]:
        """Batch sizes to run once before the first request, so that no request pays for a first time."""
        ...

    @property
    def runs_on_any_thread(self) -> bool:
        """Whether any thread may call ``infer`` at no cost; otherwise each makes something of its own first."""
        ...

    def place(self, images: int) -> FloatArray | None:
        """Return memory of the engine's own, shape (images, C, H, W), that ``infer`` reads without a copy.

        None when it reads any memory as well. Valid for the calling thread, until it asks for another size.

        Raises:
            EngineError: the backend has no memory left.
        """
        ...

    def infer(self, batch_NCHW: FloatArray) -> FloatArray:
        """Return the logits, shape (N, V), of 1 to ``max_batch`` images.

        Raises:
            EngineError: the backend failed.
        """
        ...

    def trim(self) -> None:
        """Give back scratch memory that larger batches needed; nobody may be using the engine."""
        ...

    def close(self) -> None:
        """Give back memory and device; the engine cannot be used afterwards."""
        ...


def infer_in_parts(engine: Engine, images_NCHW: FloatArray) -> FloatArray:
    """Return the logits, shape (N, V), of any number of images, in as few calls as the engine allows.

    Raises:
        EngineError: the backend failed.
    """
    step = engine.max_batch
    if len(images_NCHW) <= step:
        return engine.infer(images_NCHW)
    firsts = range(0, len(images_NCHW), step)
    return np.concatenate([engine.infer(images_NCHW[first : first + step]) for first in firsts])


def check_batch(batch_NCHW: FloatArray, shape: tuple[int, int, int], max_batch: int) -> None:
    """Refuse a batch that the engine was not made for.

    Raises:
        EngineError: wrong shape or type, or too many images.
    """
    images = len(batch_NCHW) if batch_NCHW.ndim else 0
    if batch_NCHW.dtype != np.float32 or batch_NCHW.shape[1:] != shape or not 1 <= images <= max_batch:
        raise EngineError(
            f"the engine was given {batch_NCHW.dtype} of shape {batch_NCHW.shape}; "
            f"expected float32 of shape (1 to {max_batch}, {', '.join(map(str, shape))}); split or convert it"
        )
