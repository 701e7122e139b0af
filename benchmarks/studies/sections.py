"""The sections of docs/results.md, each made of the results there are; one that has none yet says so."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from typing import Any

from chart import line_chart
from evidence import Evidence, Result, first_reaches, mean_top, on_the_way, seconds_on_the_way, table, told, tops
from setting import CIFAR10

from deps.ground.units import format_count
from deps.train.recipes import get_recipe

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
CHEAPER = ("deps", "late", "late-mid", "late-short", "late-quarter", "deps-short", "lean-short")
"""Those that are held against rivals that cost ``TIMES`` as much."""
TIMES = (1.5, 4.5)
NOT_YET = "Not run yet."
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
        lines["each alone"] = [(x, statistics.mean(figures)) for x, figures in ran]
        spread["each alone"] = [statistics.stdev(figures) if len(figures) > 1 else 0.0 for _, figures in ran]
    header = ["trained by", "epochs", "multiply-adds of training, DεpS = 1", "minutes"]
    header += [f"{x:.2f} M" for x in flops] + ["mean", "seeds"]
    picture = line_chart(
        "Top-1 on 10,000 test images", "multiply-adds of a subnet, millions", "test top-1, %", lines, spread
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
    head = [f"each alone{share}", f"{done[0][0]['epochs']:g}", f"{cost / flops:.3f}", f"{minutes / 60:.0f}"]
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


def angles(found: Evidence) -> list[str]:
    """The gradients of the smallest subnet by hand."""
    rows = []
    for result in found.by_study.get("angles", {}).values():
        for look in result["looks"]:
            row = [f"{look['epoch']:g}"]
            for kind in ("distilled", "labelled"):
                for what in ("cosine", "cosine_shared", "norm"):
                    figure = look[f"{kind}_{what}"]
                    row.append(f"{figure['mean']:.2f} ± {figure['stdev']:.2f}")
            rows.append(row)
    if not rows:
        return ["The same by hand: " + NOT_YET.lower()]
    header = ["after epoch", "soft labels: cosine", "on the shared slice", "norm"]
    return [
        "Is a cosine of 0 an error of the diagnosis? The smallest subnet's gradient once more by hand (`angles.py`:",
        "two plain networks, torch's backward, none of the diagnosis' code), mean and deviation over eight batches:",
        "",
        *table([*header, "labels: cosine", "on the shared slice", "norm"], rows),
        "",
        "It is real. A subnet that learns from labels is pulled where the full model is pulled: both are told the same",
        "about the same images. A subnet that learns from the full model's answers is pulled towards them, while",
        "the full model is pulled from them towards the labels; of that difference the subnet's loss knows nothing. So",
        "the two gradients are nearly at right angles from the first step of shrinking to the last: distilled subnets",
        "neither help nor hinder the full model's step. Leaving out what the subnet does not share hardly changes it.",
    ]


def shrinking(found: Evidence) -> tuple[list[str], dict[str, str]]:
    """The full model through the first epoch of shrinking."""
    results = found.by_study.get("shrinking", {})
    if not results:
        return [NOT_YET], {}
    lines, rows = {}, []
    for name, result in sorted(results.items()):
        for role in ("largest", "smallest") if name != "alone" else ("largest",):
            figures = [(p["step"], 100 * p[role]) for p in result["points"]]
            lines[f"{role}, {name}"] = figures
            values = [y for _, y in figures]
            rows.append([name, role, f"{values[0]:.1f}", f"{values[1]:.1f}", f"{min(values):.1f}", f"{values[-1]:.1f}"])
    header = ["way", "subnet", "before", "at the next look", "lowest", "after the epoch"]
    picture = line_chart("The first epoch of shrinking", "steps since it started", "validation top-1, %", lines)
    text = [*table(header, rows), "", *_what_the_ramp_does(lines), "![Start of shrinking](results/shrinking.svg)"]
    return text, {"shrinking.svg": picture}


def _what_the_ramp_does(lines: dict[str, list[tuple[float, float]]]) -> list[str]:
    """Return in words what the full model loses at the start of shrinking with ε and without, one run each."""
    found = [lines.get(f"{role}, {way}") for role in ("largest", "smallest") for way in ("ramp", "epsilon-off")]
    if None in found:
        return []
    with_it, without, small_with, small_without = ([y for _, y in line] for line in found if line)
    stays = "stays" if without[-1] < without[0] else "does not stay"
    lost = [f"{line[0] - min(line):.1f}" for line in (with_it, without)]
    after, small = f"{with_it[-1]:.1f} and {without[-1]:.1f} %", f"{small_with[-1]:.1f} and {small_without[-1]:.1f} %"
    return [
        f"With the ramp the full model loses {lost[0]} points at the lowest, without it {lost[1]}; after the epoch",
        f"it has {after}, the smallest subnet {small}. One run each. So ε does what it is for, but what is",
        f"lost without it {stays} lost here; in the paper's figure, after 150 epochs of ImageNet, it stays.",
        "",
    ]


def gradients(found: Evidence) -> tuple[list[str], dict[str, str]]:
    """How the subnets' gradients lie to the full model's in deps-0."""
    result = found.job("methods", "deps-0")
    if result is None or not result["gradients"]:
        return [NOT_YET], {}
    lines: dict[str, list[tuple[float, float]]] = {}
    rows, per_epoch = [], result["steps"] / result["epochs"]
    for role in ("smallest", "random"):
        by_epoch: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in result["gradients"]:
            if row["role"] == role:
                by_epoch[int(row["step"] // per_epoch) + 1].append(row)
        means = {e: [statistics.mean(r[k] for r in rows_) for k in ("cosine", "norm")] for e, rows_ in by_epoch.items()}
        lines[f"cosine, {role}"] = [(e, pair[0]) for e, pair in sorted(means.items())]
        lines[f"norm, {role}"] = [(e, pair[1]) for e, pair in sorted(means.items())]
        for index, what in enumerate(("cosine", "norm relative to the full model's")):
            rows.append([role, what, *[f"{pair[index]:.2f}" for _, pair in sorted(means.items())]])
    epochs = [f"epoch {e}" for e, _ in next(iter(lines.values()))]
    picture = line_chart("Subnets' gradients beside the full model's", "epoch", "cosine; norm (full model = 1)", lines)
    text = table(["subnet", "", *epochs], rows)
    return [*text, "", "![Gradients](results/gradients.svg)"], {"gradients.svg": picture}


def generalisation(found: Evidence) -> list[str]:
    """DεpS beside OFA in other families, at equal cost."""
    results = found.by_study.get("generalisation", {})
    if not results:
        return [NOT_YET]
    rows = [
        [
            f"`{name}`",
            f"{format_count(r['subnets'][0]['flops'])} to {format_count(r['subnets'][-1]['flops'])}",
            f"{r['cost']['flops'] / 1e12:.1f}",
            *[f"{top:.2f}" for top in tops(r)],
            f"{mean_top(r):.2f}",
        ]
        for name, r in results.items()
    ]
    text = table(["job", "multiply-adds", "cost, 10¹²", *[f"subnet {i}" for i in range(1, 7)], "mean"], rows)
    families = dict.fromkeys(name.rpartition("-")[0] for name in results)
    both = [family for family in families if f"{family}-ofa" in results]
    epochs = {results[f"{family}-deps"]["epochs"] for family in both}
    gaps = [_against_ofa(results[f"{family}-deps"], results[f"{family}-ofa"], family) for family in both]
    notes = list[str]()
    if "proxyless-slow" in families:
        rate, usual = CIFAR10.families["proxyless-slow"][1]["lr"], CIFAR10.whole_recipe().lr
        notes += [
            "",
            f"`proxyless-slow` learns at a rate of {rate:g}; at the others' {usual:g} that space hardly learns.",
        ]
    if "proxyless-classifier" in families:
        share = CIFAR10.families["proxyless-classifier"][1]["classifier_lr"]
        notes += [
            f"`proxyless-classifier` learns at {usual:g}, its classifier at {share:g} of that: it is what was wrong",
            "([why](decisions/0019-classifier-rate.md)), and how the recipe `cifar10-proxyless-tiny` trains now.",
        ]
    if not gaps:
        return text
    told_epochs = " or ".join(map(str, sorted(epochs)))
    head = f"DεpS ({told_epochs} epochs) against OFA at equal cost, one seed each:"
    return [*text, "", head, "", *gaps, *notes]


def larger(found: Evidence) -> list[str]:
    """DεpS beside OFA, and the late one at a part of the cost, where networks are larger."""
    results = found.by_study.get("larger", {})
    ofa = results.get("ofa-0")
    if ofa is None:
        return [NOT_YET]
    rows, gaps = [], list[str]()
    for stem, name in NAMES.items():
        if run := results.get(f"{stem}-0"):
            cost, minutes = run["cost"]["flops"], f"{run['seconds'] / 60:.0f}"
            rows.append([name, f"{run['epochs'] - 1 + run.get('last_epoch', 1.0):g}", f"{cost / 1e12:.1f}", minutes])
            rows[-1] += [*[f"{top:.2f}" for top in tops(run)], f"{mean_top(run):.2f}"]
            if run is not ofa:
                gaps.append(_against_ofa(run, ofa, f"{name} at {cost / ofa['cost']['flops']:.2f} of the cost"))
    recipe, own = CIFAR10.larger
    space = CIFAR10.whole_recipe(space=get_recipe(recipe).space, **own).search_space(10)
    header = ["trained by", "epochs", "cost, 10¹²", "minutes"]
    header += [f"{subnet['flops'] / 1e6:.2f} M" for subnet in ofa["subnets"]]
    return [
        f"Space `{space.name}`, {CIFAR10.larger_epochs} epochs of DεpS; one seed.",
        "",
        *table([*header, "mean"], rows),
        "",
        "Against OFA:",
        "",
        *gaps,
    ]


def _against_ofa(mine: Result, ofa: Result, what: str) -> str:
    """Return in words what a training gains over OFA."""
    gaps = [a - b for a, b in zip(tops(mine), tops(ofa), strict=True)]
    return f"- {what}: smallest {gaps[0]:+.2f}, mean {statistics.mean(gaps):+.2f}, largest {gaps[-1]:+.2f} points"
