"""The results of the studies, read from their JSON, and the few numbers that several sections of the page need."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deps.ground.files import read_json

Result = dict[str, Any]

NAMES = {
    "deps": "DεpS",
    "ofa": "OFA",
    "bignas": "BigNAS",
    "compofa": "CompOFA",
    "ofa-full": "OFA at its own length",
    "late": "late DεpS",
    "late-mid": "late DεpS, 0.4 of OFA's own length",
    "late-short": "late DεpS, a shorter schedule",
    "late-quarter": "late DεpS, the shortest schedule",
    "deps-short": "DεpS, a shorter schedule",
    "lean-short": "lean DεpS, a shorter schedule",
}
"""What the page calls each kind of training, by the stem of its jobs."""

MAIN = ("deps", "ofa", "bignas", "compofa", "ofa-full", "late", "late-mid", "late-short")
"""Those that charts and the README show; what was tried besides stands in the page's tables alone."""

NOT_YET = "Not run yet."


@dataclass(frozen=True, slots=True)
class Evidence:
    """All results there are."""

    by_study: dict[str, dict[str, Result]]
    """By study and job."""

    pipeline: Result | None
    begun: list[Result]
    """Trainings that are not done, with the line of each epoch."""

    @classmethod
    def read(cls, results: Path) -> Evidence:
        by_study = {
            folder.name: {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
            for folder in sorted(results.iterdir())
            if folder.is_dir()
        }
        path, progress = results / "pipeline.json", results / "progress.json"
        begun = [run for run in read_json(progress)["begun"] if run["lines"]] if progress.exists() else []
        return cls(by_study, read_json(path) if path.exists() else None, begun)

    def job(self, study: str, name: str) -> Result | None:
        return self.by_study.get(study, {}).get(name)

    def runs(self, study: str, stem: str) -> list[Result]:
        """Return the results of one kind at all seeds that are done, by seed."""
        found = [r for name, r in self.by_study.get(study, {}).items() if name.rpartition("-")[0] == stem]
        return sorted(found, key=lambda result: result["seed"])


def tops(result: Result, split: str = "test") -> list[float]:
    """Return the top-1 of the six subnets in percent, from the smallest to the largest."""
    return [100 * subnet[f"{split}_top1"] for subnet in result["subnets"]]


def mean_top(result: Result, split: str = "test") -> float:
    """Return the mean of the six, in percent: the Pareto mean."""
    return statistics.mean(tops(result, split))


def told(values: Sequence[float], digits: int = 2) -> str:
    """Return mean and, of several, the standard deviation over the runs."""
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def on_the_way(result: Result) -> list[tuple[float, float]]:
    """Return (training multiply-adds, mean validation top-1 of the six in percent) at the end of each epoch."""
    return [(point["flops"], 100 * statistics.mean(point["validation_top1"])) for point in result["curve"]]


def seconds_on_the_way(result: Result) -> list[tuple[float, float]]:
    """Return the same against seconds of training."""
    return [(point["seconds"], 100 * statistics.mean(point["validation_top1"])) for point in result["curve"]]


def first_reaches(line: Sequence[tuple[float, float]], level: float) -> float | None:
    """Return where a line that starts at (0, 0) first reaches a level, straight between its points; None if never."""
    before = (0.0, 0.0)
    for x, y in line:
        if y >= level:
            return before[0] + (x - before[0]) * (level - before[1]) / (y - before[1])
        before = (x, y)
    return None
