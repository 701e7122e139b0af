"""One change at a time: ablations of whole trainings, and trials of the second half alone."""

from __future__ import annotations

import math
import statistics

from evidence import NOT_YET, Evidence, Result, mean_top, table, tops


def ablations(found: Evidence) -> list[str]:
    """One change at a time, against the mean of the unchanged at several seeds."""
    results = found.by_study.get("ablations", {})
    bases = {name: result for name, result in results.items() if name.partition("-")[0] == "base"}
    if "base" not in bases:
        return [NOT_YET]
    rows, gaps, base = [], dict[str, float](), bases["base"]
    level = statistics.mean(map(mean_top, bases.values()))
    for name, result in {"base": base, **bases, **results}.items():
        mine, cost = tops(result), result["cost"]["flops"] / base["cost"]["flops"]
        gaps[name] = mean_top(result) - level
        cells = [f"`{name}`", result["why"], f"{cost:.2f}", f"{mine[0]:.2f}", f"{mean_top(result):.2f}"]
        rows.append([*cells, f"{mine[-1]:.2f}", f"{gaps[name]:+.2f}"])
    note = f"Short trainings, {base['epochs']} epochs each; seed {base['seed']}, of the base {len(bases)} in all."
    if "finished-teacher" in results:
        own = results["full"]["cost"]["flops"] / base["cost"]["flops"]
        note += f" The finished teacher's own training (`full`, {own:.2f}) comes on top of its pupil's cost."
    header = ["job", "what", "cost", "smallest", "mean", "largest", "mean against base's mean"]
    changed = {name: gap for name, gap in gaps.items() if name not in bases}
    return [note, "", *table(header, rows), "", *_what_stands_out(changed, [mean_top(r) for r in bases.values()])]


def _what_stands_out(gaps: dict[str, float], seeds: list[float]) -> list[str]:
    """Say which gaps are wider than seeds of the same recipe explain, roughly: twice what one run is off by chance."""
    if len(seeds) < 2:
        return []
    deviation = statistics.stdev(seeds)
    apart = 2 * deviation * math.sqrt(1 + 1 / len(seeds))
    wide = [f"`{name}` ({gap:+.2f})" for name, gap in sorted(gaps.items(), key=lambda e: e[1]) if abs(gap) > apart]
    return [
        f"One run of each change. Runs of the base differ by a standard deviation of {deviation:.2f} points, itself",
        f"known from {len(seeds)} runs only; twice that of one run's difference to their mean is {apart:.2f}.",
        f"Beyond it: {', '.join(wide) or 'none'}.",
    ]


def finishes(found: Evidence) -> list[str]:
    """Short second halves from one warm-up, one run each."""
    results = found.by_study.get("finishes", {})
    base = results.get("as-it-is-0")
    if base is None:
        return [NOT_YET]
    rows = []
    for name, result in {"as-it-is-0": base, **results}.items():
        mine = validation(result)
        gaps = [a - b for a, b in zip(mine, validation(base), strict=True)]
        cells = [f"`{name.rpartition('-')[0]}`", result["why"], str(result["steps"])]
        cells += [f"{mine[0]:.2f}", f"{mine[-1]:.2f}"]
        rows.append([*cells, f"{gaps[0]:+.2f}", f"{statistics.mean(gaps):+.2f}"])
    averaged = statistics.mean(averages(base)) - statistics.mean(validation(base))
    header = ["job", "what", "steps", "smallest", "largest", "smallest against as it is", "mean of six"]
    return [
        "From the end of deps-0's warm-up the rest of the schedule, compressed, each variant once at the same",
        f"multiply-adds ({base['flops'] / 1e12:.2f}·10¹²). Top-1 on the 5,000 validation images; half a point between",
        "two of them is within what five thousand images can tell. One random subnet and labels went into late DεpS,",
        "whose whole trainings at three seeds stand above.",
        "",
        *table(header, rows),
        "",
        "A running mean of the weights, measured in the place of the last ones, changes the mean of `as-it-is` by",
        f"{averaged:+.2f} points.",
    ]


def validation(result: Result) -> list[float]:
    """Return the validation top-1 of the six subnets in percent."""
    return [100 * subnet["validation_top1"] for subnet in result["subnets"]]


def averages(result: Result) -> list[float]:
    """Return the same of the running mean of the weights."""
    return [100 * subnet["validation_top1"] for subnet in result["averaged"]]
