"""The signature of a served model: names, datatypes and shapes of its one input and its one output.

Relies on the manifest. Every bundle has two: the one of its models, which take normalised numbers, and ``NAME-uint8``,
which takes pixels as they are, a quarter of the bytes; both lead to the same subnets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from deps.serve.manifest import Manifest

RAW_SUFFIX = "-uint8"
RAW_INPUT_NAME = "image"

_DTYPES: dict[str, npt.DTypeLike] = {"FP32": "<f4", "UINT8": "u1"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor, but for its batch."""

    name: str
    """As requests must spell it."""

    datatype: str
    """As the protocol spells it, ``FP32`` or ``UINT8``."""

    shape: tuple[int, ...]
    """Of one image or one row, without the batch that comes before it."""

    dtype: np.dtype[np.generic] = field(init=False)
    """How its values lie in raw bytes, little-endian."""

    row_bytes: int = field(init=False)
    """Bytes of one image or row."""

    def __post_init__(self) -> None:
        dtype = np.dtype(_DTYPES[self.datatype])
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "row_bytes", math.prod(self.shape) * dtype.itemsize)

    @property
    def batched_shape(self) -> list[int]:
        """The shape with -1 for the batch, as metadata gives it."""
        return [-1, *self.shape]


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """What one name of the protocol takes and gives."""

    name: str
    """The model's name in addresses."""

    input: TensorSpec
    """Images."""

    output: TensorSpec
    """One row of logits an image."""

    labels: tuple[str, ...]
    """One a class, in the order of the logits."""

    @property
    def takes_raw(self) -> bool:
        """Whether images are pixels as they are, UINT8, and not normalised numbers."""
        return self.input.datatype == "UINT8"


def signatures(manifest: Manifest) -> tuple[Signature, Signature]:
    """Return what a bundle answers to: its own name with normalised numbers, and ``NAME-uint8`` with pixels."""
    taken, given, raw = manifest.input, manifest.output, manifest.raw_input
    output = TensorSpec(given.name, given.datatype, (given.classes,))
    own = Signature(manifest.name, TensorSpec(taken.name, taken.datatype, taken.shape), output, manifest.labels)
    pixels = TensorSpec(RAW_INPUT_NAME if raw is None else raw.name, "UINT8", taken.shape)
    return own, Signature(manifest.name + RAW_SUFFIX, pixels, output, manifest.labels)
