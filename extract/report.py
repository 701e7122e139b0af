"""Tell what was extracted: a table for a person, one object for a program, and a picture of what was chosen among.

Relies on the measurements that were made anyway; nothing is computed here but the drawing.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deps.extract.budget import Axis, Budget
from deps.extract.bundle import Member
from deps.extract.export import Export
from deps.extract.search import Values
from deps.ground.console import text_table
from deps.ground.units import format_bytes, format_count, format_ms
from deps.profile.latency import ERROR_UNKNOWN
from deps.serve.manifest import Latency, Manifest, SubnetEntry
from deps.serve.records import plain_from_record


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Landscape:
    """Accuracy against the budget's main axis: what was measured, what is foretold, what was chosen."""

    axis: Axis
    bound: float | None
    """The budget on that axis, if it has one."""

    sample_costs: Values
    sample_accuracies: Values
    """The subnets that the predictor was fitted on, as measured."""

    front_costs: Values
    front_accuracies: Values
    """The lowest loss that is foretold at each cost, told as the top-1 that goes with it among the measured."""

    finalist_costs: Values
    finalist_accuracies: Values
    """The best that are predicted under the budget, as measured."""

    chosen_cost: float
    chosen_accuracy: float
    noise: float
    """Standard error of the chosen's accuracy."""

    family_costs: Values = field(default_factory=lambda: np.zeros(0))
    family_accuracies: Values = field(default_factory=lambda: np.zeros(0))
    """All subnets of the bundle, the chosen first."""


def plot_png(landscape: Landscape, title: str) -> bytes:
    """Return the landscape as a PNG picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(7.5, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    view, axis = landscape, landscape.axis
    axes.scatter(
        view.sample_costs, 100 * view.sample_accuracies, s=16, c="#9aa5b1", label="measured, for the predictor"
    )
    axes.plot(view.front_costs, 100 * view.front_accuracies, c="#2563eb", lw=1.6, label="lowest loss that is predicted")
    axes.scatter(
        view.finalist_costs,
        100 * view.finalist_accuracies,
        s=34,
        facecolors="none",
        edgecolors="#b45309",
        label="measured, best under the budget",
    )
    axes.errorbar(
        [view.chosen_cost],
        [100 * view.chosen_accuracy],
        yerr=[100 * view.noise],
        fmt="*",
        ms=15,
        c="#dc2626",
        capsize=3,
        label="chosen (± standard error)",
    )
    if len(view.family_costs) > 1:
        rest = slice(1, None)
        axes.scatter(
            view.family_costs[rest], 100 * view.family_accuracies[rest], s=70, marker="*", c="#dc2626", label="family"
        )
    costs = np.concatenate([view.sample_costs, view.front_costs, [view.chosen_cost]])
    if view.bound is not None and view.bound <= 1.3 * costs.max():
        axes.axvline(view.bound, c="#111827", ls="--", lw=1, label=f"budget {axis.write(view.bound)}")
    elif view.bound is not None:
        axes.plot([], [], " ", label=f"budget {axis.write(view.bound)}: further right")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(axis, value)))
    axes.set_xlabel(axis.noun)
    axes.set_ylabel("top-1 on validation images, %")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower right")
    stream = io.BytesIO()
    # Without the library's version in it, the same numbers give the same bytes.
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _tick(axis: Axis, value: float) -> str:
    """Return a number of the axis without the noun that stands below it."""
    text = axis.write(value) if value > 0 else "0"
    return text.removesuffix(" FLOPs").removesuffix(" parameters")


def plot_text(landscape: Landscape, *, width: int = 78, height: int = 18) -> str:
    """Return the landscape drawn with characters, for a terminal."""
    import plotext

    view = landscape
    unit, scale = _plain_unit(view)
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, height)
    series = (
        ("·", "measured", view.sample_costs, view.sample_accuracies),
        ("+", "lowest loss that is predicted", view.front_costs, view.front_accuracies),
        ("o", "best under the budget", view.finalist_costs, view.finalist_accuracies),
        ("X", "chosen", np.array([view.chosen_cost]), np.array([view.chosen_accuracy])),
    )
    for marker, _, costs, accuracies in series:
        figure.draw(figure.signal((costs / scale).tolist(), (100 * accuracies).tolist(), marker=marker))
    figure.label(f"{view.axis.noun}{unit}", axis="x")
    figure.label("top-1 %", axis="y")
    # Its own legend would cover points.
    legend = "   ".join(f"{marker} {what}" for marker, what, _, _ in series)
    plain = str(figure.build()).replace("\x1b[0m", "").rstrip()
    return f"{plain}\n{legend}"


def _plain_unit(view: Landscape) -> tuple[str, float]:
    """Return how the numbers of the main axis are written on a plot of characters."""
    if view.axis.key == "latency":
        return ", ms", 1.0
    largest = float(np.max(np.concatenate([view.sample_costs, [view.chosen_cost]])))
    unit, scale = next((u, s) for u, s in (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0)) if largest >= s or s == 1.0)
    suffix = "B" if view.axis.key in ("size", "memory") else ""
    return (f", {unit}{suffix}" if unit + suffix else ""), scale


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class ExtractReport:
    """What was extracted into one bundle."""

    bundle: Path
    run: Path
    manifest: Manifest
    budget: Budget
    members: tuple[Member, ...]
    """The subnets, most accurate first."""

    landscape: Landscape | None
    """None where nothing was measured."""

    def to_text(self) -> str:
        """Return the table for a person."""
        best = f"the best found within {self.budget.describe()}"
        if len(self.members) > 1:
            best += f", and {len(self.members) - 1} that cost less"
        lines = [f"{self.manifest.target}: {best}", ""] if len(self.members) > 1 else []
        for member, entry in zip(self.members, self.manifest.subnets, strict=True):
            lines += _member_lines(member, entry, f": {best}" if len(self.members) == 1 else "")
        engines = [f"engine: {engine.path} ({format_bytes(engine.size_bytes)})" for engine in self.manifest.engines]
        lines += [
            *[f"note: {note}" for note in self.manifest.notes],
            *engines,
            f"bundle: {self.bundle}  (what to do with it: {self.bundle / 'README.md'})",
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints of the bundle; ``subnet`` and ``precisions`` are those of the default."""
        members = [
            {
                "subnet": plain_from_record(entry),
                "top1_torch": {"validation": member.exports.torch_validation, "test": member.exports.torch_test}
                if member.exports.is_measured
                else None,
                "precisions": [_plain(export, member.exports.is_measured) for export in member.exports.entries],
            }
            for member, entry in zip(self.members, self.manifest.subnets, strict=True)
        ]
        return {
            "bundle": str(self.bundle),
            "supernet": str(self.run),
            "target": self.manifest.target,
            "budget": self.budget.to_dict(),
            **members[0],
            **({"family": members} if len(members) > 1 else {}),
            "engines": [plain_from_record(engine) for engine in self.manifest.engines],
            "search": self.manifest.search,
            "notes": list(self.manifest.notes),
        }


@dataclass(frozen=True, eq=False, slots=True)
class Extraction:
    """What one call extracted: a bundle for each target."""

    reports: tuple[ExtractReport, ...]
    seconds: float

    def to_text(self) -> str:
        """Return the tables for a person."""
        return "\n\n".join(report.to_text() for report in self.reports)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints: the bundle, or for several targets an object with all ``bundles``."""
        plain = [report.to_dict() for report in self.reports]
        seconds = round(self.seconds, 3)
        return {**plain[0], "seconds": seconds} if len(plain) == 1 else {"bundles": plain, "seconds": seconds}


def _member_lines(member: Member, entry: SubnetEntry, what: str) -> list[str]:
    """Return what a person reads of one subnet, ended by an empty line."""
    exports = member.exports
    costs = [
        f"{format_count(entry.flops)} FLOPs",
        f"{format_count(entry.params)} parameters",
        f"{format_bytes(entry.weight_bytes)} of fp32 weights",
        f"{format_bytes(entry.activation_bytes)} of activations",
        *[f"{_latency_text(latency)} on {target}" for target, latency in entry.latency.items()],
    ]
    rows = [["torch", "-", percent(exports.torch_validation), percent(exports.torch_test), "-", "-", "-", ""]]
    rows += [_row(export) for export in exports.entries]
    if not exports.is_measured:
        # Only sizes and errors were found; the columns of accuracies say so.
        rows = [[row[0], row[1], "-", "-", "-", *row[5:]] for row in rows]
    header = ["precision", "file", "validation", "test", "drop", "max error", "same class", ""]
    return [
        f"{entry.name}{what}",
        f"  {member.arch.to_text()}",
        f"  {', '.join(costs)}",
        "",
        text_table(header, rows),
        "",
    ]


def percent(fraction: float) -> str:
    """Return a share as a person reads it."""
    return f"{100 * fraction:.2f} %"


def _latency_text(latency: Latency) -> str:
    if latency.predicted_ms is None:
        return "unknown latency"
    predicted = format_ms(latency.predicted_ms)
    if latency.error_ms is None:
        return f"{predicted} predicted ({ERROR_UNKNOWN})"
    return f"{predicted} ± {format_ms(latency.error_ms)} predicted"


def _row(export: Export) -> list[str]:
    verdict = ("repaired" if export.how else "") if export.is_shipped else "left out"
    if export.validation is None or export.test is None:
        return [export.precision, "-", "-", "-", "-", "-", "-", verdict]
    return [
        export.precision,
        format_bytes(len(export.content)),
        percent(export.validation.top1),
        percent(export.test.top1),
        f"{100 * (export.drop or 0.0):+.2f}",
        f"{max(export.validation.max_abs_error, export.test.max_abs_error):.2g}",
        percent(export.validation.same_answer),
        verdict,
    ]


def _plain(export: Export, is_measured: bool) -> dict[str, Any]:
    measured = {}
    for split, agreement in (("validation", export.validation), ("test", export.test)):
        if agreement is not None:
            measured[split] = {
                "top1": agreement.top1 if is_measured else None,
                "same_class": agreement.same_answer,
                "max_abs_error": agreement.max_abs_error if np.isfinite(agreement.max_abs_error) else None,
                "tolerance": agreement.tolerance,
                "images": agreement.images,
                "compared_with_torch": agreement.compared,
            }
    return {
        "precision": export.precision,
        "size_bytes": len(export.content),
        "drop": export.drop,
        "is_shipped": export.is_shipped,
        "why_left_out": export.why_left_out,
        "how_repaired": export.how or None,
        **measured,
    }
