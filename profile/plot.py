"""Draw predicted against measured times: as an SVG for a page, and as characters for a terminal.

Relies on nothing but text, since a device has no plotting library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from deps.profile.latency import Check

_SIDE, _MARGIN = 460, 60
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
_MARKS = "o+x*#@"


def scatter_svg(checks: Sequence[Check], title: str) -> str:
    """Return an SVG with one point a held-out net, measured to the right, predicted upwards, and the diagonal."""
    low, high = _range(checks)
    steps = _ticks(low, high)

    def at(ms: float) -> float:
        return (ms - low) / (high - low) * _SIDE

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_SIDE + 2 * _MARGIN}" height="{_SIDE + 2 * _MARGIN}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_MARGIN}" y="{_MARGIN / 2}" font-size="14">{escape(title)}</text>',
        f'<g transform="translate({_MARGIN},{_MARGIN})">',
        f'<rect width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#888"/>',
        f'<line x1="0" y1="{_SIDE}" x2="{_SIDE}" y2="0" stroke="#bbb"/>',
    ]
    for step in steps:
        x, y = at(step), _SIDE - at(step)
        parts.append(f'<text x="{x:.1f}" y="{_SIDE + 16}" text-anchor="middle">{step:g}</text>')
        parts.append(f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{step:g}</text>')
    for number, resolution in enumerate(_resolutions(checks)):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<text x="10" y="{20 + 16 * number}" fill="{colour}">{resolution} px</text>')
        parts += [
            f'<circle cx="{at(check.measured_ms):.1f}" cy="{_SIDE - at(check.predicted_ms):.1f}" r="3.5" '
            f'fill="{colour}" fill-opacity="0.7"><title>measured {check.measured_ms:.4g} ms, predicted '
            f"{check.predicted_ms:.4g} ms</title></circle>"
            for check in checks
            if check.resolution == resolution
        ]
    parts += [
        f'<text x="{_SIDE / 2}" y="{_SIDE + 40}" text-anchor="middle">measured, ms</text>',
        f'<text transform="translate(-40,{_SIDE / 2}) rotate(-90)" text-anchor="middle">predicted, ms</text>',
        "</g></svg>",
    ]
    return "\n".join(parts) + "\n"


def scatter_text(checks: Sequence[Check], *, columns: int = 60, rows: int = 20) -> str:
    """Return the same as characters: one mark a net, another mark for each resolution, dots for the diagonal."""
    low, high = _range(checks)
    grid = [[" "] * columns for _ in range(rows)]
    for column in range(columns):
        grid[rows - 1 - column * rows // columns][column] = "."
    for number, resolution in enumerate(_resolutions(checks)):
        for check in checks:
            if check.resolution == resolution:
                column = round((check.measured_ms - low) / (high - low) * (columns - 1))
                row = round((check.predicted_ms - low) / (high - low) * (rows - 1))
                grid[rows - 1 - row][column] = _MARKS[number % len(_MARKS)]
    names = [f"{high:8.3g} ", *["         "] * (rows - 2), f"{low:8.3g} "]
    lines = [f"{name}|{''.join(row)}" for name, row in zip(names, grid, strict=True)]
    axis = f"{'':9}+{'-' * columns}"
    ends = f"{'':10}{low:<10.3g}{'measured, ms':^{columns - 20}}{high:>10.3g}"
    marks = "  ".join(
        f"{_MARKS[number % len(_MARKS)]} {resolution} px" for number, resolution in enumerate(_resolutions(checks))
    )
    return "\n".join([f"predicted, ms; {marks}", *lines, axis, ends])


def _resolutions(checks: Sequence[Check]) -> list[int]:
    return sorted({check.resolution for check in checks})


def _range(checks: Sequence[Check]) -> tuple[float, float]:
    times = [time for check in checks for time in (check.measured_ms, check.predicted_ms)]
    low, high = min(times), max(times)
    room = 0.05 * (high - low) or 0.05 * high
    return max(0.0, low - room), high + room


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers between two others."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [round(number * step, 12) for number in range(first, int(high / step) + 1)]
