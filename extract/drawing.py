"""Draw what a report shows as SVG text: a cloud of points with a line, and a subnet block by block.

Relies on the page's style sheet for every colour, by class, so that a drawing follows light, dark and paper.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from deps.supernet.pieces import BottleneckPlan, ConvPlan, InvertedPlan, LinearPlan, Piece, input_shape, output_shape
from deps.supernet.plan import NetworkPlan


class Series(NamedTuple):
    """Points of one kind."""

    css: str
    """Class of the marks."""

    x: Sequence[float]
    y: Sequence[float]
    radius: float
    is_line: bool = False


def scatter(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    write_x: Callable[[float], str],
    bound: float | None = None,
    error: tuple[float, float, float] | None = None,
) -> str:
    """Return a plot of y over x.

    Args:
        series: drawn in order, later ones on top.
        x_label: what x is.
        y_label: what y is.
        write_x: writes a number of the x axis.
        bound: a line at that x, where it is in sight.
        error: (x, y, half length) of a vertical bar.
    """
    width, height, left, top, right, bottom = 760, 400, 58, 16, 16, 46
    xs = np.concatenate([np.asarray(s.x, float) for s in series])
    ys = np.concatenate([np.asarray(s.y, float) for s in series])
    if bound is not None and bound <= 1.3 * xs.max():
        xs = np.append(xs, bound)
    x_ticks, y_ticks = ticks(float(xs.min()), float(xs.max())), ticks(float(ys.min()), float(ys.max()))
    x_low, x_high = min(x_ticks[0], xs.min()), max(x_ticks[-1], xs.max())
    y_low, y_high = min(y_ticks[0], ys.min()), max(y_ticks[-1], ys.max())

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            round(left + (x - x_low) / max(x_high - x_low, 1e-12) * (width - left - right), 1),
            round(height - bottom - (y - y_low) / max(y_high - y_low, 1e-12) * (height - top - bottom), 1),
        )

    parts = []
    for tick in x_ticks:
        x, _ = at(tick, y_low)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{height - bottom}"/>')
        parts.append(f'<text x="{x}" y="{height - bottom + 17}" text-anchor="middle">{_text(write_x(tick))}</text>')
    for tick in y_ticks:
        _, y = at(x_low, tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    middle = (left + width - right) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{height - 8}" text-anchor="middle">{_text(x_label)}</text>')
    across = (top + height - bottom) / 2
    parts.append(
        f'<text class="axis" transform="translate(14 {across}) rotate(-90)" text-anchor="middle">'
        f"{_text(y_label)}</text>"
    )
    if bound is not None and x_low <= bound <= x_high:
        x, _ = at(bound, y_low)
        parts.append(f'<line class="bound" x1="{x}" x2="{x}" y1="{top}" y2="{height - bottom}"/>')
        parts.append(f'<text class="axis" x="{x - 6}" y="{height - bottom - 8}" text-anchor="end">budget</text>')
    for one in series:
        points = [at(x, y) for x, y in zip(one.x, one.y, strict=True)]
        if one.is_line:
            parts.append(f'<polyline class="{one.css}" points="{" ".join(f"{x},{y}" for x, y in points)}"/>')
        else:
            parts += [f'<circle class="{one.css}" cx="{x}" cy="{y}" r="{one.radius}"/>' for x, y in points]
    if error is not None:
        x, y, half = error
        (px, low), (_, high) = at(x, y - half), at(x, y + half)
        parts.append(f'<line class="error" x1="{px}" x2="{px}" y1="{low}" y2="{high}"/>')
    return _svg(width, height, parts, f"{y_label} over {x_label}")


def subnet(plan: NetworkPlan, shares: Sequence[float], share_label: str) -> str:
    """Return a subnet drawn block by block, and below each block its share of what the whole costs.

    A block is as tall as it is wide inside (its expanded channels, on a root scale), and tinted by its kernel.

    Args:
        plan: the subnet.
        shares: of the whole, one a piece, in the order of ``plan.pieces()``.
        share_label: what they are shares of.
    """
    pieces = list(plan.pieces())
    step, left, top, tall, low = 30.0, 58.0, 34.0, 150.0, 96.0
    width, base = left + step * len(pieces) + 16, top + tall
    largest_inside = max(_inside(piece) for piece in pieces)
    largest_share = max(max(shares), 1e-12)
    floor = base + 64 + low
    # The widest networks have some fifty pieces; the page scrolls there.
    parts = [
        f'<text class="axis" transform="translate(14 {top + tall / 2}) rotate(-90)" text-anchor="middle">'
        "channels inside</text>",
        f'<text class="axis" transform="translate(14 {floor - low / 2}) rotate(-90)" text-anchor="middle">'
        f"{_text(share_label)}</text>",
        f'<line class="grid" x1="{left - 6}" x2="{width - 8}" y1="{floor}" y2="{floor}"/>',
    ]
    before = None
    for index, (piece, share) in enumerate(zip(pieces, shares, strict=True)):
        x = left + step * index
        inside = _inside(piece)
        height = max(8.0, tall * math.sqrt(inside / largest_inside))
        bar = low * share / largest_share
        size = input_shape(piece)[1]
        if size != before and not isinstance(piece, LinearPlan):
            parts.append(f'<line class="stage" x1="{x - 2}" x2="{x - 2}" y1="{top - 12}" y2="{floor}"/>')
            parts.append(f'<text class="small" x="{x + 2}" y="{top - 16}">{size}²</text>')
            before = size
        label, k, given = _label(piece), kernel(piece), output_shape(piece)[0]
        tip = f"{piece.name}: {label}, {inside} channels inside, {piece.macs:,} multiply-adds, {100 * share:.1f} %"
        se = " se" if isinstance(piece, InvertedPlan) and piece.squeeze else ""
        parts.append(
            f'<g><title>{_text(tip)}</title><rect class="block k{k}{se}" x="{x + 2}" y="{base - height:.1f}" '
            f'width="{step - 5}" height="{height:.1f}" rx="4"/>'
            f'<rect class="share" x="{x + 5}" y="{floor - bar:.1f}" width="{step - 11}" height="{bar:.1f}" rx="2"/></g>'
        )
        parts.append(
            f'<text class="small" x="{x + step / 2}" y="{base + 15}" text-anchor="middle">{_text(label)}</text>'
        )
        parts.append(f'<text class="small dim" x="{x + step / 2}" y="{base + 29}" text-anchor="middle">{given}</text>')
        if share >= 0.04:
            parts.append(
                f'<text class="small" x="{x + step / 2}" y="{floor - bar - 4:.1f}" text-anchor="middle">'
                f"{100 * share:.0f}</text>"
            )
    return _svg(width, floor + 12, parts, "the subnet, block by block")


def ticks(low: float, high: float) -> list[float]:
    """Return four to seven round numbers that span a range."""
    if high <= low:
        low, high = low - 0.05 * max(abs(low), 1.0), high + 0.05 * max(abs(high), 1.0)
    span = high - low
    raw = span / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _inside(piece: Piece) -> int:
    if isinstance(piece, InvertedPlan):
        return piece.depthwise.channels_in
    if isinstance(piece, BottleneckPlan):
        return piece.spatial.channels_in
    if isinstance(piece, ConvPlan):
        return piece.channels_out
    return piece.features_out if isinstance(piece, LinearPlan) else piece.channels


def kernel(piece: Piece) -> int:
    """Return the kernel of a piece's spatial convolution; 1 where it has none."""
    if isinstance(piece, InvertedPlan):
        return piece.depthwise.kernel
    if isinstance(piece, BottleneckPlan):
        return piece.spatial.kernel
    return piece.kernel if isinstance(piece, ConvPlan) else 1


def _label(piece: Piece) -> str:
    """Return a block in three or four letters: kernel and expansion."""
    if isinstance(piece, InvertedPlan):
        ratio = piece.depthwise.channels_in / (piece.expand or piece.depthwise).channels_in
        return f"{piece.depthwise.kernel}·{ratio:.2g}"
    if isinstance(piece, BottleneckPlan):
        return f"{piece.spatial.kernel}·{piece.spatial.channels_in / piece.restore.channels_out:.2g}"
    if isinstance(piece, ConvPlan):
        return f"{piece.kernel}×{piece.kernel}"
    return "fc" if isinstance(piece, LinearPlan) else "pool"


def _svg(width: float, height: float, parts: Sequence[str], what: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" aria-label="{_text(what)}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(text: str) -> str:
    return html.escape(text)
