"""Methods beside each other: accuracy, cost, what was wanted, and accuracy on the way."""

from __future__ import annotations

import statistics

from chart import line_chart
from evidence import (
    MAIN,
    NAMES,
    NOT_YET,
    Evidence,
    Result,
    first_reaches,
    mean_top,
    on_the_way,
    seconds_on_the_way,
    table,
    told,
    tops,
)

CHEAPER = ("deps", "late", "late-mid", "late-short", "late-quarter", "deps-short", "lean-short")
"""Those that are held against rivals that cost ``TIMES`` as much."""
TIMES = (1.5, 4.5)
ALONE = "each alone"
BARS = ("Points are means over seeds, upright bars one standard deviation to either side.", "")


def methods(found: Evidence) -> tuple[list[str], dict[str, str]]:
    """Top-1 against multiply-adds at equal cost, and the plain networks beside it."""
    rows, lines, spread = [], dict[str, list[tuple[float, float]]](), dict[str, list[float]]()
    first = found.job("methods", "deps-0")
    for stem, name in NAMES.items():
        runs = found.runs("methods", stem)
        if not runs:
            continue
        columns = list(zip(*map(tops, runs), strict=True))
        epochs = runs[0]["epochs"] - 1 + runs[0].get("last_epoch", 1.0)
        relative = statistics.mean(r["cost"]["flops"] for r in runs) / (first or runs[0])["cost"]["flops"]
        spent = [r["seconds"] / 60 for r in runs]
        cells = [name, f"{epochs:g}", f"{relative:.3f}", told(spent, 0), *[told(column) for column in columns]]
        rows.append([*cells, told([mean_top(r) for r in runs]), str(len(runs))])
        flops = [subnet["flops"] / 1e6 for subnet in runs[0]["subnets"]]
        lines[name] = [(x, statistics.mean(column)) for x, column in zip(flops, columns, strict=True)]
        if len(runs) > 1:
            spread[name] = [statistics.stdev(column) for column in columns]
    if not rows:
        return [NOT_YET], {}
    flops = [x for x, _ in next(iter(lines.values()))]
    alone = [found.runs("alone", f"subnet{index}") for index in range(len(flops))]
    if any(alone):
        rows.append(_alone(alone, (first or {"cost": {"flops": 1}})["cost"]["flops"]))
        ran = [(x, [100 * r["test_top1"] for r in runs]) for x, runs in zip(flops, alone, strict=True) if runs]
        lines[ALONE] = [(x, statistics.mean(figures)) for x, figures in ran]
        spread[ALONE] = [statistics.stdev(figures) if len(figures) > 1 else 0.0 for _, figures in ran]
    header = ["trained by", "epochs", "multiply-adds of training, DεpS = 1", "minutes"]
    header += [f"{x:.2f} M" for x in flops] + ["mean", "seeds"]
    shown = {name: line for name, line in lines.items() if name in (ALONE, *(NAMES[stem] for stem in MAIN))}
    picture = line_chart(
        "Top-1 on 10,000 test images", "multiply-adds of a subnet, millions", "test top-1, %", shown, spread
    )
    note = list[str]()
    if any(alone):
        note = [
            "",
            "Supernets and networks alone start from initial weights of one size (fan-in) and learn at the same rate.",
        ]
    if any(name.startswith("late") for name in found.by_study.get("methods", {})):
        note += [
            "",
            "Late DεpS is ours: the full model learns alone for 85 % of the epochs instead of 50, along the first half",
            "of the cosine as before; then subnets learn fast, from labels too, one random one a step instead of two:",
            "`deps-train cifar10-tiny-late`; any recipe's name takes the ending ([why](decisions/0018-late-start.md)).",
            "Without it recipes are the paper's. Lean DεpS was the try before: alone for 75 %, one random subnet.",
        ]
    text = [*table(header, rows), *note, "", *BARS, "![Top-1 against multiply-adds](results/methods.svg)"]
    return text, {"methods.svg": picture}


def _alone(alone: list[list[Result]], flops: int) -> list[str]:
    """Return the row of networks trained alone, by subnet and seed; their cost is together, one seed of each."""
    done = [runs for runs in alone if runs]
    cost, minutes = (sum(runs[0][key] for runs in done) for key in ("train_flops", "seconds"))
    share = "" if len(done) == len(alone) else f" ({len(done)} of {len(alone)} done)"
    by_seed = zip(*([100 * r["test_top1"] for r in runs] for runs in alone), strict=False)
    mean = told([statistics.mean(six) for six in by_seed]) if len(done) == len(alone) else "–"
    cells = [told([100 * r["test_top1"] for r in runs]) for runs in alone]
    head = [f"{ALONE}{share}", f"{done[0][0]['epochs']:g}", f"{cost / flops:.3f}", f"{minutes / 60:.0f}"]
    return [*head, *cells, mean, "/".join(map(str, sorted({len(runs) for runs in alone})))]


def goals(found: Evidence) -> list[str]:
    """What was wanted of DεpS and what was found, a figure for each seed; met is what every seed met."""
    rows: dict[tuple[str, str], list[tuple[str, bool]]] = {}

    def note(what: str, wanted: str, was: str, is_met: bool) -> None:
        rows.setdefault((what, wanted), []).append((was, is_met))

    for deps in found.runs("methods", "deps"):
        seed, mine = deps["seed"], tops(deps)
        ofa, bignas = found.job("methods", f"ofa-{seed}"), found.job("methods", f"bignas-{seed}")
        if ofa:
            small, large = mine[0] - tops(ofa)[0], mine[-1] - tops(ofa)[-1]
            note("smallest subnet against OFA, equal cost", "+1.3 points", f"{small:+.2f}", small >= 1.3)
            note("largest subnet against OFA, equal cost", "nothing lost", f"{large:+.2f}", large >= 0)
        if bignas:
            gaps = [a - b for a, b in zip(mine, tops(bignas), strict=True)]
            told_gaps = f"{min(gaps):+.2f} to {max(gaps):+.2f}"
            note("BigNAS, equal cost", "beaten at every point", told_gaps, min(gaps) > 0)
        rivals = {"OFA": ofa, "BigNAS": bignas, "OFA at its own length": found.job("methods", f"ofa-full-{seed}")}
        for name, rival in rivals.items():
            if rival:
                note(*cheaper(name, deps, rival))
            for stem in CHEAPER:
                if rival and (short := found.job("methods", f"{stem}-{seed}")):
                    ratio, gap = rival["cost"]["flops"] / short["cost"]["flops"], mean_top(short) - mean_top(rival)
                    if not TIMES[0] <= ratio <= TIMES[1]:
                        continue
                    what = f"Pareto mean of {NAMES[stem]}, against {name} at {ratio:.1f} times the cost"
                    faster = rival["seconds"] / short["seconds"]
                    note(what, "at least equal", f"{gap:+.2f} points in {faster:.1f} times less time", gap >= 0)
    if not rows:
        return ["Nothing can be compared before DεpS and one other method are done."]
    plain = [
        [what, wanted, "; ".join(was for was, _ in figures), "yes" if all(met for _, met in figures) else "**no**"]
        for (what, wanted), figures in rows.items()
    ]
    return table(["goal", "wanted", "found, by seed", "met"], plain)


def cheaper(name: str, deps: Result, rival: Result) -> tuple[str, str, str, bool]:
    """Return how much less training DεpS needs to the mean that a rival ends with, on the same validation images."""
    what = f"cost to the Pareto mean of {name}"
    level = on_the_way(rival)[-1][1]
    flops, seconds = (first_reaches(line, level) for line in (on_the_way(deps), seconds_on_the_way(deps)))
    if flops is None or seconds is None:
        return what, "at least 2.5 times less", "not reached", False
    ratio, faster = rival["cost"]["flops"] / flops, rival["curve"][-1]["seconds"] / seconds
    return what, "at least 2.5 times less", f"{ratio:.2f} times less ({faster:.2f} in time)", ratio >= 2.5


def on_the_way_section(found: Evidence) -> tuple[list[str], dict[str, str]]:
    """Mean validation accuracy of the six while training."""
    lines, rows = {}, []
    for stem, name in NAMES.items():
        if result := found.job("methods", f"{stem}-0"):
            if stem in MAIN:
                lines[name] = [(x / 1e12, y) for x, y in on_the_way(result)]
            rows.append([f"{name}, mean of six", *[f"{y:.1f}" for _, y in on_the_way(result)]])
            for role, index in (("smallest", 0), ("largest", -1)):
                figures = [100 * point["validation_top1"][index] for point in result["curve"]]
                rows.append([f"{name}, {role}", *[f"{y:.1f}" for y in figures]])
    if not lines:
        return [NOT_YET], {}
    longest = max(map(len, rows))
    rows = [row + [""] * (longest - len(row)) for row in rows]
    picture = line_chart(
        "Mean top-1 of the six on validation images, seed 0", "multiply-adds of training, 10¹²", "top-1, %", lines
    )
    text = table(["seed 0", *[f"epoch {i}" for i in range(1, longest)]], rows)
    note = "Of the first 2,000 validation images, BatchNorm recalibrated on 500, at the end of each epoch."
    return [note, "", *text, "", "![Mean top-1 against training cost](results/cost.svg)"], {"cost.svg": picture}
