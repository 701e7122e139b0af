"""What happens while subnets join: the full model through the start of shrinking, and the gradients."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

from chart import line_chart
from evidence import NOT_YET, Evidence, table


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
