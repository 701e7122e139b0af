"""One change at a time: ablations of whole trainings, and trials of the second half alone."""

from __future__ import annotations

import math
import statistics

from evidence import NOT_YET, Evidence, Result, mean_top, table, told, tops


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
    """Short second halves from one warm-up."""
    results = found.by_study.get("finishes", {})
    bases = {r["seed"]: r for r in found.runs("finishes", "as-it-is")}
    if not bases:
        return [NOT_YET]
    stems = list(dict.fromkeys(name.rpartition("-")[0] for name in results))
    rows = []
    for stem in sorted(stems, key=lambda stem: stem != "as-it-is"):
        runs = [r for r in found.runs("finishes", stem) if r["seed"] in bases]
        gaps = [[a - b for a, b in zip(*map(validation, (r, bases[r["seed"]])), strict=True)] for r in runs]
        cells = [f"`{stem}`", runs[0]["why"], str(runs[0]["steps"])]
        cells += [told(column) for column in list(zip(*map(validation, runs), strict=True))[:: len(gaps[0]) - 1]]
        means = [statistics.mean(gap) for gap in gaps]
        rows.append([*cells, *(", ".join(f"{v:+.2f}" for v in seeds) for seeds in (means, [gap[0] for gap in gaps]))])
    one = next(iter(bases.values()))
    averaged = [statistics.mean(averages(r)) - statistics.mean(validation(r)) for r in bases.values()]
    header = ["job", "what", "steps", "smallest", "largest", "mean against as it is, by seed", "smallest, by seed"]
    return [
        "From the end of deps-0's warm-up the rest of the schedule, compressed, each variant at the same multiply-adds",
        f"({one['flops'] / 1e12:.2f}·10¹²). Top-1 on the 5,000 validation images; a seed is one of the images' order",
        "and of the subnets drawn. Half a point between two of them is within what five thousand images can tell.",
        "",
        *table(header, rows),
        "",
        "A running mean of the weights, measured in the place of the last ones, changes the mean of `as-it-is` by",
        f"{', '.join(f'{gap:+.2f}' for gap in averaged)} points.",
    ]


def validation(result: Result) -> list[float]:
    """Return the validation top-1 of the six subnets in percent."""
    return [100 * subnet["validation_top1"] for subnet in result["subnets"]]


def averages(result: Result) -> list[float]:
    """Return the same of the running mean of the weights."""
    return [100 * subnet["validation_top1"] for subnet in result["averaged"]]
