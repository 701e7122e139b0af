"""Quantities are read as people type them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deps.ground.errors import UnitError
from deps.ground.units import format_bytes, format_count, format_ms, format_seconds, parse_bytes, parse_count, parse_ms


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("300M", 300_000_000),
        ("1.2G", 1_200_000_000),
        ("5k", 5000),
        ("300m", 300_000_000),
        ("7", 7),
        (" 4 M ", 4_000_000),
        ("3e8", 300_000_000),
    ],
)
def test_counts(text: str, count: int):
    """300M means 300 million multiply-adds."""
    assert parse_count(text) == count


@pytest.mark.parametrize(("text", "ms"), [("5ms", 5.0), ("0.2 ms", 0.2), ("200us", 0.2), ("1s", 1000.0)])
def test_durations(text: str, ms: float):
    """A latency budget may be given in any unit of time."""
    assert parse_ms(text) == pytest.approx(ms)


@pytest.mark.parametrize(("text", "size"), [("4MB", 4_000_000), ("1KiB", 1024), ("100B", 100)])
def test_sizes(text: str, size: int):
    """MB is a million bytes; MiB is 2^20."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "M", "-3M", "300X", "nan", "inf", "0", "1e999", "3 0 0", "0x10", "300MM"])
def test_what_is_not_a_count_is_refused_with_an_example(text: str):
    """A budget that is misread is worse than one that is refused."""
    with pytest.raises(UnitError, match="300M"):
        parse_count(text)


@pytest.mark.parametrize("text", ["5", "5MB", "0ms", "-1ms"])
def test_a_duration_needs_its_unit(text: str):
    """5 could be seconds or milliseconds."""
    with pytest.raises(UnitError, match="5ms"):
        parse_ms(text)


@given(st.integers(1, 10**12))
def test_a_formatted_count_is_read_back_within_its_three_digits(count: int):
    """What a table shows can be typed again."""
    assert parse_count(format_count(count)) == pytest.approx(count, rel=6e-3)


def test_formats():
    """As they appear in tables."""
    assert format_count(1_234_567) == "1.23M"
    assert format_bytes(1_234_567) == "1.23 MB"
    assert format_ms(0.01234) == "0.0123 ms"
    assert [format_seconds(s) for s in (4.23, 200, 7500)] == ["4.2 s", "3 min 20 s", "2 h 05 min"]
