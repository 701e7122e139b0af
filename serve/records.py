"""Turn parsed JSON or TOML into frozen dataclasses and back, so that a dataclass is its own schema.

Relies on the dataclass's annotations: str, int, float, bool, Any, Literal, X | None, tuple, dict with text keys, and
dataclasses made of these. Ranges are the business of each class's ``__post_init__``.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from deps.ground.errors import DepsError

R = TypeVar("R")

# Deeper than any real manifest, and shallow enough that no recursion limit is met on the way.
MAX_DEPTH = 64


class _MismatchError(Exception):
    """A value that its annotation does not admit; carries where it stands and what is wrong."""


def _refuse(where: str, value: object, expected: str) -> _MismatchError:
    shown = repr(value)
    if len(shown) > 60:
        shown = f"{shown[:57]}..."
    return _MismatchError(f"{where or 'the whole'} is {shown}; expected {expected}")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _read_number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refuse(where, value, "a number")
    try:
        number = float(value)
    except OverflowError as error:
        raise _refuse(where, "a huge integer", "a finite number") from error
    if not math.isfinite(number):
        raise _refuse(where, value, "a finite number")
    return number


def _read_free(value: object, where: str, depth: int = 0) -> object:
    """Admit any JSON value, but no NaN and no depth that would break a later reader."""
    if depth > MAX_DEPTH:
        raise _MismatchError(f"{where} is nested more than {MAX_DEPTH} deep; expected plain facts")
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return _read_number(value, where)
    if isinstance(value, (list, tuple)):
        return [_read_free(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _read_free(item, _join(where, key), depth + 1) for key, item in value.items()}
    raise _refuse(where, value, "a JSON value")


def _read_tuple(value: object, parts: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _refuse(where, value, "a list")
    if len(parts) == 2 and parts[1] is Ellipsis:
        return tuple(_read(item, parts[0], f"{where}[{index}]") for index, item in enumerate(value))
    if len(value) != len(parts):
        raise _refuse(where, value, f"a list of {len(parts)}")
    pairs = zip(value, parts, strict=True)
    return tuple(_read(item, part, f"{where}[{index}]") for index, (item, part) in enumerate(pairs))


def _read_mapping(value: object, item_type: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _refuse(where, value, "an object")
    return {key: _read(item, item_type, _join(where, key)) for key, item in value.items()}


def _schema(cls: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the annotation of each field of a dataclass, and the fields that may be left out."""
    fields = dataclasses.fields(cls)
    optional = {
        field.name
        for field in fields
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    }
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields}, frozenset(optional)


def _read_record(value: object, cls: type[R], where: str) -> R:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _refuse(where, value, "an object")
    hints, optional = _schema(cls)
    if unknown := sorted(set(value) - set(hints)):
        raise _MismatchError(f"{_join(where, unknown[0])} is not a known key; expected {', '.join(hints)}")
    if missing := [key for key in hints if key not in value and key not in optional]:
        raise _MismatchError(f"{_join(where, missing[0])} is missing")
    fields = {key: _read(item, hints[key], _join(where, key)) for key, item in value.items()}
    try:
        return cls(**fields)
    except DepsError as error:
        raise _MismatchError(_join(where, str(error))) from error


def _read(value: object, expected: Any, where: str) -> Any:
    """Return ``value`` as its annotation wants it, or raise ``_MismatchError``."""
    origin, parts = get_origin(expected), get_args(expected)
    if expected is Any:
        return _read_free(value, where)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _read(value, next(part for part in parts if part is not type(None)), where)
    if origin is Literal:
        if isinstance(value, bool) or value not in parts:
            raise _refuse(where, value, f"one of {', '.join(map(repr, parts))}")
        return value
    if origin is tuple:
        return _read_tuple(value, parts, where)
    if origin is dict:
        return _read_mapping(value, parts[1], where)
    if expected is float:
        return _read_number(value, where)
    if expected is bool:
        if not isinstance(value, bool):
            raise _refuse(where, value, "true or false")
        return value
    if expected is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _refuse(where, value, "a whole number")
        return value
    if expected is str:
        if not isinstance(value, str):
            raise _refuse(where, value, "text")
        return value
    return _read_record(value, expected, where)


def record_from_plain(cls: type[R], value: object, *, error: type[DepsError], source: str = "", remedy: str) -> R:
    """Return the dataclass that a parsed JSON or TOML object describes.

    Args:
        cls: a dataclass; its fields without default are the required keys.
        value: what the parser returned.
        error: the error a user shall see.
        source: what the value was read from, for the message; empty when it came from no file.
        remedy: what to do about a bad value.

    Raises:
        DepsError: of type ``error``; the message names the key, the value, what was expected, and the remedy.
    """
    try:
        return _read_record(value, cls, "")
    except _MismatchError as mismatch:
        start = f"{source}: " if source else ""
        raise error(f"{start}{mismatch}; {remedy}") from mismatch


def plain_from_record(value: Any) -> Any:
    """Return a dataclass as objects, lists, text and numbers only; the inverse of ``record_from_plain``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_from_record(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain_from_record(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_from_record(item) for item in value]
    return value
