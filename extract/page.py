"""Write the report as one HTML page that needs nothing else: no script, no font, no address; light, dark and on paper.

Relies on ``drawing.py`` for the pictures; every number on it stands in the manifest or in the latency table.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deps.extract import drawing
from deps.extract.bundle import Member
from deps.extract.drawing import Series
from deps.extract.export import Export
from deps.extract.report import Landscape, percent
from deps.ground.units import format_bytes, format_count, format_ms
from deps.profile.latency import LatencyTable
from deps.serve.targets import Target
from deps.supernet import SearchSpace
from deps.supernet.plan import plan


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Page:
    """What a report tells."""

    title: str
    target: Target
    budget: str
    space: SearchSpace
    members: tuple[Member, ...]
    """The subnets, the chosen first."""

    landscape: Landscape | None
    table: LatencyTable | None
    """The target's latency table, where there is one."""

    run: str
    notes: tuple[str, ...]


def page_html(page: Page) -> str:
    """Return the page; the same facts give the same text."""
    first = page.members[0]
    sections = [
        _cards(first),
        _section("Chosen among", _landscape(page.landscape), _LEGEND) if page.landscape else "",
        _section(*_subnet(page, first)),
        _section("Precisions", _precisions(first.exports.entries), _precision_note(first)),
        _section("Latency", _latency(page), "") if any(member.latency for member in page.members) else "",
        _section("Family", _family(page.members), "") if len(page.members) > 1 else "",
        _section("Notes", _list([*page.notes, *_export_notes(page.members)]), ""),
    ]
    return _PAGE.format(
        style=_style(),
        title=_text(page.title),
        name=_text(first.name),
        lead=_text(f"for {page.target.name} ({page.target.description}), within {page.budget}; from {page.run}"),
        sections="\n".join(section for section in sections if section),
    )


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<h1>{name}</h1>
<p>{lead}</p>
</header>
{sections}
</main>
</body>
</html>
"""

_LEGEND = (
    '<span class="key sample"></span>measured <span class="key front"></span>lowest loss that is predicted '
    '<span class="key finalist"></span>best under the budget, measured <span class="key chosen"></span>chosen, with '
    "its standard error"
)


@cache
def _style() -> str:
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def _section(title: str, content: str, note: str) -> str:
    if not content:
        return ""
    note = f'<p class="note">{note}</p>' if note else ""
    return f"<section>\n<h2>{_text(title)}</h2>\n{content}\n{note}</section>"


def _cards(member: Member) -> str:
    fp32, costs = member.exports.entries[0], member.costs
    assert fp32.validation is not None
    assert fp32.test is not None
    facts = [
        ("top-1, validation", percent(fp32.validation.top1)),
        ("top-1, test", percent(fp32.test.top1)),
        ("FLOPs", format_count(costs.flops)),
        ("parameters", format_count(costs.params)),
        ("fp32 weights", format_bytes(costs.weight_bytes)),
        ("image", f"{member.arch.resolution} px"),
    ]
    for target, latency in member.latency.items():
        if latency.predicted_ms is not None:
            facts.append((f"predicted on {target}", format_ms(latency.predicted_ms)))
    cells = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts)
    return f'<dl class="cards">{cells}</dl>'


def _landscape(view: Landscape) -> str:
    def shares(values: Iterable[float]) -> list[float]:
        return [100 * float(value) for value in values]

    series = [
        Series("sample", list(view.sample_costs), shares(view.sample_accuracies), 3.2),
        Series("front", list(view.front_costs), shares(view.front_accuracies), 0, is_line=True),
        Series("finalist", list(view.finalist_costs), shares(view.finalist_accuracies), 5),
        Series("family", list(view.family_costs), shares(view.family_accuracies), 5),
        Series("chosen", [view.chosen_cost], [100 * view.chosen_accuracy], 6.5),
    ]
    return drawing.scatter(
        [one for one in series if len(one.x)],
        x_label=view.axis.noun,
        y_label="top-1 on validation images, %",
        write_x=lambda value: view.axis.write(value).partition(" ")[0] if value > 0 else "0",
        bound=view.bound,
        error=(view.chosen_cost, 100 * view.chosen_accuracy, 100 * view.noise),
    )


def _subnet(page: Page, member: Member) -> tuple[str, str, str]:
    """Return title, drawing and note of the subnet and of where its time goes."""
    subnet, table = plan(page.space, member.arch), page.table
    pieces = list(subnet.pieces())
    label, costs = "multiply-adds, %", [float(piece.macs) for piece in pieces]
    if table is not None and all(piece.key in table.entries for piece in pieces):
        label, costs = f"time on {page.target.name}, %", [table.entries[piece.key].median_ms for piece in pieces]
    total = max(sum(costs), 1e-12)
    kernels = "".join(
        f'<span class="key k{k}"></span>{k} × {k} ' for k in sorted({drawing.kernel(piece) for piece in pieces})
    )
    note = (
        f"{kernels}<span class='key se'></span>squeeze-excite. Below a block: kernel · expansion, then the channels it "
        "gives; above: the side of the map that goes in. Bars: the share of each block of the whole."
    )
    shares = [cost / total for cost in costs]
    drawn = drawing.subnet(subnet, shares, label)
    return "The subnet, and where its time goes", f'<div class="wide">{drawn}</div>', note


def _precisions(entries: Sequence[Export]) -> str:
    rows = []
    for entry in entries:
        verdict = ("repaired" if entry.how else "shipped") if entry.is_shipped else "left out"
        if entry.validation is None or entry.test is None:
            rows.append(
                f'<tr class="out"><th>{entry.precision}</th><td colspan="6">{_text(entry.why_left_out or "")}</td></tr>'
            )
            continue
        top1 = 100 * entry.validation.top1
        cells = [
            f'<td class="bar"><span style="width:{top1:.2f}%"></span><b>{top1:.2f} %</b></td>',
            f"<td>{percent(entry.test.top1)}</td>",
            f"<td>{-100 * (entry.drop or 0):+.2f}</td>",
            f"<td>{format_bytes(len(entry.content))}</td>",
            f"<td>{max(entry.validation.max_abs_error, entry.test.max_abs_error):.2g}</td>",
            f"<td>{verdict}</td>",
        ]
        rows.append(f'<tr class="{"" if entry.is_shipped else "out"}"><th>{entry.precision}</th>{"".join(cells)}</tr>')
    head = "".join(
        f"<th>{name}</th>" for name in ("", "validation top-1", "test top-1", "points", "file", "largest error", "")
    )
    return f'<table class="precisions"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _precision_note(member: Member) -> str:
    first = member.exports.entries[0]
    assert first.validation is not None
    assert first.test is not None
    return _text(
        f"Each file was run on {first.validation.images} validation and {first.test.images} test images, and its "
        f"logits compared with torch's on the first {first.validation.compared}. Points are won or lost against fp32."
    )


def _latency(page: Page) -> str:
    rows = []
    for member in page.members:
        for target, latency in member.latency.items():
            error = f" ± {format_ms(latency.error_ms)}" if latency.error_ms is not None else ""
            predicted = format_ms(latency.predicted_ms) + error if latency.predicted_ms is not None else "-"
            measured = format_ms(latency.measured_ms) if latency.measured_ms is not None else "deps-serve bench"
            rows.append(
                f"<tr><th>{_text(member.name)}</th><td>{target}</td><td>{predicted}</td><td>{measured}</td></tr>"
            )
    table = (
        "<table><thead><tr><th></th><th>target</th><th>predicted</th><th>measured</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    held_out = page.table.held_out if page.table is not None else ()
    if not held_out:
        return table
    points = Series("sample", [c.predicted_ms for c in held_out], [c.measured_ms for c in held_out], 4)
    ends = [min(*points.x, *points.y), max(*points.x, *points.y)]
    return table + drawing.scatter(
        [Series("front", ends, ends, 0, is_line=True), points],
        x_label="predicted, ms, of whole subnets that the table did not see",
        y_label="measured, ms",
        write_x=lambda value: f"{value:g}",
    )


def _family(members: Sequence[Member]) -> str:
    rows = []
    for member in members:
        fp32 = member.exports.entries[0]
        top1 = percent(fp32.validation.top1) if fp32.validation else "-"
        rows.append(
            f"<tr><th>{_text(member.name)}</th><td>{format_count(member.costs.flops)}</td>"
            f"<td>{format_count(member.costs.params)}</td><td>{top1}</td></tr>"
        )
    head = "<tr><th></th><th>FLOPs</th><th>parameters</th><th>validation top-1</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _export_notes(members: Sequence[Member]) -> list[str]:
    several = len(members) > 1
    return [f"{m.name}: {note}" if several else note for m in members for note in m.exports.notes()]


def _list(notes: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(note)}</li>' for note in notes)}</ul>" if notes else ""


def _text(text: str) -> str:
    return html.escape(text)
