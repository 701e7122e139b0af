"""A line chart as SVG text, drawn by hand so that the same numbers give the same bytes everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

PLOT, HEIGHT, LEFT, BOTTOM, TOP = 510, 380, 60, 48, 34
MARK, LETTER = 50, 7.2
"""Pixels of the legend: of a line's sample, and of a letter in the widest of the usual fonts."""

COLOURS = ("#0b6bcb", "#d1601b", "#2a8a3e", "#8a3ea8", "#8a6d1b", "#555555", "#c02a5a", "#1b8a8a")
DASHES = ("", "6 4", "2 3")
"""When the colours are used up they come again, dashed."""

Line = Sequence[tuple[float, float]]
Spread = Mapping[str, Sequence[float]]
NO_SPREAD: Spread = {}


def line_chart(title: str, across: str, up: str, lines: Mapping[str, Line], spread: Spread = NO_SPREAD) -> str:
    """Return an SVG with one line a name.

    Args:
        title: above.
        across: what the horizontal axis says.
        up: what the vertical axis says.
        lines: points (x, y) by name, in the order of the legend.
        spread: half the length of an upright bar at each point, for those names that have any.

    Raises:
        ValueError: more lines than can be told apart.
    """
    if len(lines) > len(COLOURS) * len(DASHES):
        raise ValueError(f"{len(lines)} lines, of which {len(COLOURS) * len(DASHES)} can be told apart")
    bars = {name: spread.get(name, [0.0] * len(line)) for name, line in lines.items()}
    xs = [x for line in lines.values() for x, _ in line]
    reach = [(y, bar) for name, line in lines.items() for (_, y), bar in zip(line, bars[name], strict=True)]
    ys = [end for y, bar in reach for end in (y - bar, y + bar)]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    (x_low, x_high), (y_low, y_high) = (x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1])

    edge = LEFT + PLOT
    width = edge + MARK + math.ceil(LETTER * max(map(len, lines)))

    def px(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * PLOT, 1)

    def py(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - BOTTOM - TOP), 1)

    floor = HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}"',
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for x in x_ticks:
        parts.append(f'<path d="M{px(x)} {TOP}V{floor}" stroke="#eee"/>')
        parts.append(f'<text x="{px(x)}" y="{floor + 16}" text-anchor="middle">{x:g}</text>')
    for y in y_ticks:
        parts.append(f'<path d="M{LEFT} {py(y)}H{edge}" stroke="#eee"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{py(y) + 4}" text-anchor="end">{y:g}</text>')
    parts.append(f'<text x="{(LEFT + edge) / 2:g}" y="{HEIGHT - 10}" text-anchor="middle">{escape(across)}</text>')
    middle = (TOP + floor) / 2
    parts.append(f'<text transform="translate(16 {middle:g}) rotate(-90)" text-anchor="middle">{escape(up)}</text>')
    for index, (name, line) in enumerate(lines.items()):
        again, which = divmod(index, len(COLOURS))
        colour, dash = COLOURS[which], f' stroke-dasharray="{DASHES[again]}"' if again else ""
        path, stroke = "L".join(f"{px(x)} {py(y)}" for x, y in line), f'fill="none" stroke="{colour}"'
        parts.append(f'<path d="M{path}" {stroke} stroke-width="2"{dash}/>')
        parts += [f'<circle cx="{px(x)}" cy="{py(y)}" r="3" fill="{colour}"/>' for x, y in line]
        for (x, y), bar in zip(line, bars[name], strict=True):
            if bar:
                parts.append(f'<path d="M{px(x)} {py(y - bar)}V{py(y + bar)}" {stroke} stroke-width="1"/>')
        y_text = TOP + 14 + 18 * index
        parts.append(f'<path d="M{edge + 12} {y_text - 4}H{edge + 36}" {stroke} stroke-width="2"{dash}/>')
        parts.append(f'<circle cx="{edge + 24}" cy="{y_text - 4}" r="3" fill="{colour}"/>')
        parts.append(f'<text x="{edge + 42}" y="{y_text}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return about ``count`` round numbers that enclose a range."""
    span = (high - low) or max(abs(high), 1.0)
    raw = span / (count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 10) for i in range(first, max(last, first + 1) + 1)]
