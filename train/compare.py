"""Several finished runs in one table and one picture: accuracy against multiply-adds, and what each training cost.

Relies on ``results.json`` of each run; nothing is measured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deps.ground.console import Story, text_table
from deps.ground.errors import RunError
from deps.ground.files import write_json
from deps.ground.units import format_count, format_seconds
from deps.train.figures import new_figure, save_figure
from deps.train.run import open_run, read_results


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """What a comparison takes from one run."""

    folder: str
    name: str
    method: str
    space: str
    dataset: str
    epochs: int
    subnets: tuple[dict[str, Any], ...]
    """Role, flops, params, validation_top1 and test_top1 of each measured subnet, by flops."""

    cost: dict[str, Any] | None
    """The account of the training; None for runs that are older than the account."""

    @property
    def mean_top1(self) -> float:
        """Mean test accuracy of the measured subnets."""
        return float(sum(subnet["test_top1"] for subnet in self.subnets)) / len(self.subnets)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "folder": self.folder,
            "name": self.name,
            "method": self.method,
            "space": self.space,
            "dataset": self.dataset,
            "epochs": self.epochs,
            "mean_test_top1": self.mean_top1,
            "subnets": list(self.subnets),
            "cost": self.cost,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """What ``deps-train compare`` answers."""

    runs: tuple[ComparedRun, ...]
    files: tuple[str, ...] = ()
    """Pictures and JSON that were written."""

    def to_text(self) -> str:
        """Return the table that a person reads."""
        header = ("run", "method", "epochs", "smallest %", "mean %", "largest %", "train FLOPs", "device time", "kWh")
        rows = []
        for run in self.runs:
            cost = run.cost or {}
            joules = cost.get("joules")
            rows.append(
                (
                    run.name,
                    run.method,
                    str(run.epochs),
                    f"{100 * run.subnets[0]['test_top1']:.2f}",
                    f"{100 * run.mean_top1:.2f}",
                    f"{100 * run.subnets[-1]['test_top1']:.2f}",
                    format_count(cost["flops"]) if cost else "-",
                    format_seconds(cost["device_seconds"]) if cost else "-",
                    f"{joules / 3.6e6:.3g}" if joules is not None else "-",
                )
            )
        written = f"\n\nwritten: {', '.join(self.files)}" if self.files else ""
        return (
            f"{text_table(header, rows)}\n\ntest top-1; FLOPs are multiply-adds, 3 for each of a forward pass{written}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"runs": [run.to_dict() for run in self.runs], "files": list(self.files)}


def compare(folders: Sequence[Path], story: Story, *, out: Path | None = None) -> Comparison:
    """Return what several finished runs reached and cost.

    Args:
        folders: of the runs.
        story: warned when they are of different images or spaces.
        out: folder for ``compare.png``, ``compare.svg`` and ``compare.json``; None writes nothing.

    Raises:
        RunError: a folder is no finished run.
        FileError: a file cannot be written.
    """
    runs = tuple(compared_run(folder) for folder in folders)
    kinds = {(run.dataset, run.space) for run in runs}
    if len(kinds) > 1:
        told = "; ".join(f"{run.name}: {run.dataset}, {run.space}" for run in runs)
        story.warn(f"these runs are not of the same images and space, so their accuracies say little ({told})")
    if out is None:
        return Comparison(runs)
    files = [str(path) for path in draw(runs, out)]
    files.append(str(out / "compare.json"))
    comparison = Comparison(runs, tuple(files))
    write_json(out / "compare.json", {"schema_version": 1, **comparison.to_dict()})
    return comparison


def compared_run(folder: Path) -> ComparedRun:
    """Return what a comparison takes from one run.

    Raises:
        RunError: it is no finished run.
    """
    run, results = open_run(folder), read_results(folder)
    if results is None or run.recipe is None:
        raise RunError(f"{folder} has no results.json; compare takes runs that deps-train finished")
    kept = ("role", "flops", "params", "validation_top1", "test_top1")
    subnets = sorted(
        ({name: subnet[name] for name in kept} for subnet in results["subnets"]), key=lambda subnet: subnet["flops"]
    )
    return ComparedRun(
        folder=str(folder),
        name=run.name,
        method=results["method"],
        space=run.recipe.space,
        dataset=run.recipe.dataset,
        epochs=results["epochs"],
        subnets=tuple(subnets),
        cost=results.get("cost"),
    )


def draw(runs: Sequence[ComparedRun], out: Path) -> list[Path]:
    """Draw accuracy against multiply-adds, and mean accuracy against the cost of training; PNG and SVG."""
    figure = new_figure(11, 4.5)
    front, price = figure.subplots(1, 2)
    for run in runs:
        label = f"{run.name} ({run.method})"
        flops = [subnet["flops"] / 1e6 for subnet in run.subnets]
        front.plot(flops, [100 * subnet["test_top1"] for subnet in run.subnets], marker="o", label=label)
        if run.cost:
            price.plot([run.cost["flops"]], [100 * run.mean_top1], marker="o", linestyle="", label=label)
    front.set(xlabel="multiply-adds of a subnet, millions", ylabel="test top-1, %", title="what was reached")
    price.set(xlabel="multiply-adds of the training", ylabel="mean test top-1, %", title="what it cost")
    front.legend(fontsize=8)
    return save_figure(figure, out, "compare")
