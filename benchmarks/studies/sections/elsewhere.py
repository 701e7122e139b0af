"""Whether it holds elsewhere: in other families, and where networks are larger."""

from __future__ import annotations

import statistics

from evidence import NAMES, NOT_YET, Evidence, Result, mean_top, table, tops
from setting import CIFAR10

from deps.ground.units import format_count
from deps.train.recipes import get_recipe
from sections.comparison import cheaper


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
        *_cheaper(results.get("deps-0"), ofa),
    ]


def _cheaper(deps: Result | None, ofa: Result) -> list[str]:
    """Return in words how much less training DεpS needs to OFA's mean, read off its one run."""
    if deps is None:
        return []
    _, wanted, found, is_met = cheaper("OFA", deps, ofa)
    verdict = "met" if is_met else "**not** met"
    return [f"- DεpS on the way to the Pareto mean that OFA ends with: {found}; {wanted} was {verdict}"]


def larger_in_words(found: Evidence) -> list[str]:
    """Return a sentence on the larger space, for the README; none before all of it is done."""
    runs = [found.job("larger", f"{stem}-0") for stem in ("ofa", "deps", "late-short")]
    ofa, deps, late = runs
    if not ofa or not deps or not late:
        return []
    low, high = (ofa["subnets"][index]["flops"] / 1e6 for index in (0, -1))
    share = late["cost"]["flops"] / deps["cost"]["flops"]
    return [
        f"In a space of {low:.1f} to {high:.1f} million multiply-adds, {deps['epochs']} epochs, one seed, mean of six: "
        f"OFA {mean_top(ofa):.2f} %, DεpS at its cost {mean_top(deps):.2f} %, "
        f"late DεpS at {share:.2f} of it {mean_top(late):.2f} %.",
    ]


def generalisation(found: Evidence) -> list[str]:
    """DεpS beside OFA in other families, at equal cost."""
    done = found.by_study.get("generalisation", {})
    results = {f"{f}-{m}": done[f"{f}-{m}"] for f in CIFAR10.families for m in ("deps", "ofa") if f"{f}-{m}" in done}
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
    notes, usual = list[str](), CIFAR10.whole_recipe().lr
    if "proxyless-slow" in families:
        rate = CIFAR10.families["proxyless-slow"][1]["lr"]
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


def _against_ofa(mine: Result, ofa: Result, what: str) -> str:
    """Return in words what a training gains over OFA."""
    gaps = [a - b for a, b in zip(tops(mine), tops(ofa), strict=True)]
    return f"- {what}: smallest {gaps[0]:+.2f}, mean {statistics.mean(gaps):+.2f}, largest {gaps[-1]:+.2f} points"
