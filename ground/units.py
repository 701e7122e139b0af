"""Read and write quantities as people type them: ``300M``, ``1.2G``, ``5ms``, ``4MB``.

Relies on nothing. Counts use powers of 1000; so do bytes, while ``KiB``, ``MiB`` and ``GiB`` use powers of 1024.
"""

from __future__ import annotations

import math
import re

from deps.ground.errors import UnitError

COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}

_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-zµ]*)\s*", re.IGNORECASE)


def _parse(text: str, units: dict[str, float], what: str, example: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in units:
        known = ", ".join(unit for unit in units if unit)
        raise UnitError(f"{text!r} is not {what}; write a positive number with a unit ({known}), e.g. {example}")
    value = float(match[1]) * units[match[2].lower()]
    if not 0 < value < math.inf:
        raise UnitError(f"{text!r} is not {what}; it must be positive and finite, e.g. {example}")
    return value


def parse_count(text: str) -> int:
    """Return a count such as ``300M`` as an integer.

    Raises:
        UnitError: not a positive number, or an unknown unit.
    """
    count = round(_parse(text, COUNTS, "a count", "300M"))
    if count < 1:
        raise UnitError(f"{text!r} is not a count; it must be at least 1, e.g. 300M")
    return count


def parse_ms(text: str) -> float:
    """Return a duration such as ``5ms`` or ``200us`` in milliseconds; the unit is required.

    Raises:
        UnitError: not a positive number, or an unknown unit.
    """
    return _parse(text, MILLISECONDS, "a duration", "5ms")


def parse_bytes(text: str) -> int:
    """Return a size such as ``4MB`` in bytes; the unit is required.

    Raises:
        UnitError: not a positive number, or an unknown unit.
    """
    return max(1, round(_parse(text, BYTES, "a size", "4MB")))


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    for scale, unit in steps:
        if value >= scale:
            return f"{value / scale:.3g}{unit}" if value < 1000 * scale else f"{value / scale:.0f}{unit}"
    return f"{value:.3g}"


def format_count(value: float) -> str:
    """Return a count with three digits: 1234567 gives ``1.23M``."""
    return _scaled(value, ((1e9, "G"), (1e6, "M"), (1e3, "k")))


def format_bytes(value: float) -> str:
    """Return a size with three digits: 1234567 gives ``1.23 MB``."""
    return _scaled(value, ((1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1.0, " B")))


def format_ms(value: float) -> str:
    """Return milliseconds with three digits: 0.01234 gives ``0.0123 ms``."""
    return f"{value:.3g} ms"


def format_seconds(value: float) -> str:
    """Return a duration for people: ``4.2 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
