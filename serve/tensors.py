"""Tensors as they arrive, in JSON or in bytes, checked against the signature before anything computes with them.

Relies on ``signature.py`` for what is expected. HTTP and gRPC read their tensors here, so both refuse the same things
in the same words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from deps.serve.refusals import RefusedError
from deps.serve.signature import TensorSpec

AnyArray = npt.NDArray[Any]

_FLOAT_MAX = float(np.finfo(np.float32).max)


def refuse(message: str) -> NoReturn:
    """Refuse a request as malformed.

    Raises:
        RefusedError: always; 400.
    """
    raise RefusedError(message)


def shown(value: object) -> str:
    """Return a value as a message may show it: short, and ``missing`` for None."""
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_shape(shape: Any, where: str, spec: TensorSpec) -> tuple[int, ...]:
    """Return a tensor's shape, when it is a batch of what the model takes.

    Raises:
        RefusedError: anything else.
    """
    if (
        not isinstance(shape, Sequence)
        or any(isinstance(size, bool) or not isinstance(size, int) for size in shape)
        or tuple(shape[1:]) != spec.shape
        or shape[0] < 1
    ):
        expected = f"[N, {', '.join(map(str, spec.shape))}]"
        refuse(f"{where}.shape is {shown(shape)}; expected {expected} with N of at least 1")
    return tuple(shape)


def array_from_bytes(raw: bytes | memoryview, shape: tuple[int, ...], where: str, spec: TensorSpec) -> AnyArray:
    """Return a tensor that arrived as little-endian bytes, without copying them.

    Raises:
        RefusedError: more or fewer bytes than the shape needs.
    """
    needed = shape[0] * spec.row_bytes
    if len(raw) != needed:
        refuse(f"{where} holds {len(raw)} bytes; expected {needed} for the shape {list(shape)}")
    return np.frombuffer(raw, spec.dtype).reshape(shape)


def array_from_body(body: bytes | memoryview, spec: TensorSpec) -> AnyArray:
    """Return the images of a body that is nothing but one tensor.

    Raises:
        RefusedError: not a whole number of images.
    """
    if not body or len(body) % spec.row_bytes:
        refuse(f"the body has {len(body)} bytes; expected a multiple of {spec.row_bytes}, the size of one image")
    return np.frombuffer(body, spec.dtype).reshape(-1, *spec.shape)


def array_from_lists(data: Any, shape: tuple[int, ...], where: str, spec: TensorSpec) -> AnyArray:
    """Return the tensor that a flat or a fully nested list holds; nothing but numbers is let through.

    Raises:
        RefusedError: no list, nested otherwise than the shape, other things than numbers, or numbers out of range.
    """
    if not isinstance(data, list):
        refuse(f"{where} is {shown(data)}; expected a list of numbers")
    flat, depth = data, 0
    while (kinds := set(map(type, flat))) == {list}:
        if (
            depth == len(shape) - 1
            or len(flat) != math.prod(shape[: depth + 1])
            or set(map(len, flat)) != {shape[depth + 1]}
        ):
            refuse(f"{where} is nested otherwise than the shape {list(shape)}; expected flat values or that shape")
        flat, depth = list(chain.from_iterable(flat)), depth + 1
    if depth not in (0, len(shape) - 1):
        refuse(f"{where} is nested {depth + 1} deep; expected flat values or the shape {list(shape)}")
    return array_from_numbers(flat, kinds, shape, where, spec)


def array_from_numbers(
    flat: Sequence[Any], kinds: set[type], shape: tuple[int, ...], where: str, spec: TensorSpec
) -> AnyArray:
    """Return the tensor of flat values in row-major order; ``kinds`` are the types that occur among them.

    Raises:
        RefusedError: other things than numbers, too many or too few, or numbers out of range.
    """
    known, named = ({int}, "whole numbers") if spec.datatype == "UINT8" else ({int, float}, "numbers")
    if not kinds <= known:
        names = ", ".join(sorted(kind.__name__ for kind in kinds - known))
        refuse(f"{where} holds {names}; expected {named} only")
    if len(flat) != math.prod(shape):
        refuse(f"{where} holds {len(flat)} values; expected {math.prod(shape)} for the shape {list(shape)}")
    if spec.datatype == "UINT8":
        if min(flat) < 0 or max(flat) > 255:
            refuse(f"{where} holds a number beyond UINT8; expected values from 0 to 255")
        return np.array(flat, dtype=np.uint8).reshape(shape)
    try:
        values = np.array(flat, dtype=np.float64)
    except OverflowError:
        values = np.array([math.inf])
    if not (np.abs(values) <= _FLOAT_MAX).all():
        refuse(f"{where} holds a number beyond FP32; expected values of magnitude {_FLOAT_MAX:.3g} at most")
    return values.astype(np.float32).reshape(shape)
