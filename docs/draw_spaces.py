"""Draw every search space as an SVG, and print its table: what ``docs/spaces.md`` shows is made by this script.

    python docs/draw_spaces.py            writes docs/spaces/*.svg and the tables in docs/spaces.md
    python docs/draw_spaces.py --check    says whether they are what the code would draw

A box is a block of the largest subnet: as tall as its width (in octaves of channels), dashed where the depth may leave
it out, split where a layer has several widths. Relies on the spaces being data.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path

from deps.supernet import ArchSpec, SearchSpace, get_space, space_names
from deps.supernet.pieces import ConvPlan, InvertedPlan, Piece, PoolPlan, output_shape
from deps.supernet.plan import plan

PAGE = Path(__file__).parent / "spaces.md"
FOLDER = Path(__file__).parent / "spaces"
COLOURS = {"relu": "#4c78a8", "relu6": "#54a24b", "hswish": "#e45756", None: "#9d9da1"}
BOX, GAP, HEIGHT, TOP = 22, 4, 150, 44


def colour_of(piece: Piece) -> str:
    """Return the colour of a piece's activation."""
    if isinstance(piece, InvertedPlan):
        return COLOURS[piece.depthwise.activation]
    return COLOURS[getattr(piece, "activation", None)]


def drawing(space: SearchSpace) -> str:
    """Return the SVG of one space."""
    whole, x, parts = plan(space, ArchSpec.largest(space)), 10.0, []

    def box(piece: Piece, *, is_optional: bool, label: str, has_squeeze: bool) -> None:
        nonlocal x
        height = 8 * math.log2(1 + output_shape(piece)[0])
        y = TOP + (HEIGHT - height) / 2
        dash = ' stroke-dasharray="3 2"' if is_optional else ""
        fill = 0.35 if is_optional else 0.85
        parts.append(
            f'<rect x="{x:.0f}" y="{y:.1f}" width="{BOX}" height="{height:.1f}" rx="3" fill="{colour_of(piece)}" '
            f'fill-opacity="{fill}" stroke="{colour_of(piece)}"{dash}><title>{label}</title></rect>'
        )
        if has_squeeze:
            parts.append(f'<circle cx="{x + BOX / 2:.0f}" cy="{y + height / 2:.1f}" r="4" fill="#fff"/>')
        x += BOX + GAP

    def note(start: float, upper: str, lower: str) -> None:
        middle = (start + x - GAP) / 2
        parts.append(f'<text x="{middle:.0f}" y="{TOP - 16}">{upper}</text>')
        parts.append(f'<text x="{middle:.0f}" y="{TOP + HEIGHT + 16}">{lower}</text>')

    def single(piece: Piece, *, is_optional: bool = False) -> None:
        if not isinstance(piece, PoolPlan):
            start, (channels, side, _) = x, output_shape(piece)
            box(piece, is_optional=is_optional, label=piece.key, has_squeeze=False)
            note(start, str(channels), f"{side}²")

    for piece in whole.stem:
        single(piece, is_optional=isinstance(piece, ConvPlan) and piece.is_residual)
    for stage, blocks in zip(space.stages, whole.stages, strict=True):
        x += 3 * GAP
        start = x
        for index, block in enumerate(blocks):
            box(block, is_optional=index >= stage.depths[0], label=block.key, has_squeeze=stage.squeeze_excite)
        note(start, "/".join(map(str, stage.widths)), f"{output_shape(blocks[-1])[1]}²")
    x += 3 * GAP
    for piece in whole.head:
        single(piece)
    width, height = math.ceil(x + 10), TOP + HEIGHT + 30
    title = f'<text x="10" y="14" text-anchor="start" font-weight="bold">{space.name}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="10" text-anchor="middle">\n'
        '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join([title, *parts]) + "\n</svg>\n"
    )


def listed(values: tuple[float, ...]) -> str:
    """Return choices as people write them."""
    return ", ".join(f"{value:g}" for value in values)


def table(space: SearchSpace) -> str:
    """Return the table of one space, in Markdown."""
    largest, smallest = ArchSpec.largest(space), ArchSpec.smallest(space)
    pieces = [sum(piece.macs for piece in plan(space, arch).pieces()) / 1e6 for arch in (smallest, largest)]
    low, high = space.resolutions[0], space.resolutions[-1]
    sides = f"{low} px" if low == high else f"{low} to {high} px"
    rows = [
        "| stage | width | blocks | kernel | ratio | stride | activation | squeeze-excite |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for number, stage in enumerate(space.stages, start=1):
        rows.append(
            f"| {number} | {listed(stage.widths)} | {listed(stage.depths)} | {listed(stage.kernels)} | "
            f"{listed(stage.expands)} | {stage.stride} | {stage.activation} | {'yes' if stage.squeeze_excite else ''} |"
        )
    images = f"at {sides}" if low == high else f"at each of {len(space.resolutions)} sizes ({sides})"
    facts = (
        f"{space.size(high):.3g} subnets {images}, "
        f"{pieces[0]:.4g} to {pieces[1]:.4g} million multiply-adds, BatchNorm eps {space.norm_eps:g}, "
        f"{space.num_classes} classes."
    )
    return f"### {space.name}\n\n![{space.name}](spaces/{space.name}.svg)\n\n{facts}\n\n" + "\n".join(rows) + "\n"


def main() -> int:
    """Write what is stale, or with ``--check`` say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    tables = "\n".join(table(get_space(name)) for name in space_names())
    page = PAGE.read_text(encoding="utf-8")
    marks = r"(<!-- tables -->\n).*(<!-- end of tables -->)"
    wanted = {PAGE: re.sub(marks, lambda match: f"{match[1]}\n{tables}\n{match[2]}", page, flags=re.DOTALL)}
    wanted |= {FOLDER / f"{name}.svg": drawing(get_space(name)) for name in space_names()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if args.check:
        for path in stale:
            sys.stderr.write(f"{path.name} is not what the spaces say; run python docs/draw_spaces.py\n")
        return int(bool(stale))
    FOLDER.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
