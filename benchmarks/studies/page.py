"""Make docs/results.md, its pictures and the README's first table from the results of the studies.

    python benchmarks/studies/page.py            writes them
    python benchmarks/studies/page.py --check    says what is not as it would be written; a test calls this

Every number of the page comes from a JSON file in benchmarks/studies/results/; nothing is typed in.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evidence import MAIN, NAMES, Evidence, mean_top, table, told, tops
from run import RESULTS, all_jobs
from sections import comparison, delivery, dynamics, elsewhere, trials
from setting import CIFAR10, uniform_subnets

from deps.ground.files import write_text
from deps.profile.flops import count

ROOT = Path(__file__).parents[2]
PAGE, PICTURES, README = ROOT / "docs" / "results.md", ROOT / "docs" / "results", ROOT / "README.md"
OPEN, CLOSE = "<!-- results: made by benchmarks/studies/page.py -->", "<!-- end of results -->"


def setting_text() -> list[str]:
    """Return what was trained on what."""
    recipe = CIFAR10.whole_recipe()
    space = recipe.search_space(10)
    flops = [count(space, arch).flops / 1e6 for arch in uniform_subnets(space)]
    return [
        f"The complete CIFAR-10: {CIFAR10.train_images:,} images to train on, 5,000 to choose with, 10,000 for the",
        f"numbers below. Space `{space.name}`: a MobileNetV3 of half width whose depths and expand ratios",
        f"are elastic, {flops[0]:.2f} to {flops[-1]:.2f} million multiply-adds. DεpS: {recipe.epochs} epochs,",
        f"batch {recipe.batch_size}, learning rate {recipe.lr:g} along a cosine, half of the epochs alone, a ramp of",
        f"{recipe.epsilon_ramp:g} epoch. Top-1 is that of the six uniform subnets (one depth, one expand ratio), with",
        "BatchNorm recalibrated on 2,000 training images. One core of a shared machine, at the lowest priority:",
        "minutes hold what else ran, multiply-adds do not; and trainings from 2026-11-23 on run code whose steps are",
        "about 1.3 times as quick (`benchmarks/pointwise.py`), so minutes of two methods are only roughly comparable.",
        "",
        "    python benchmarks/studies/run.py --data DATA --runs FOLDER        # all; goes on where it stopped",
        "    python benchmarks/studies/pipeline.py --data DATA --runs FOLDER   # the whole pipeline",
        "    python benchmarks/studies/page.py                                 # this page",
        "",
        "`run.py --only methods/deps-0` makes one of them. A job whose JSON is there counts as done, as all that are",
        "committed do: `--results FOLDER` (or `make studies DATA=…`) makes them anew elsewhere. Each supernet's",
        "command and every job's machine and commit stand in `benchmarks/studies/results/STUDY/JOB.json`.",
    ]


def done_text(found: Evidence) -> list[str]:
    """Return which jobs are done and which are not."""
    names: dict[str, tuple[list[str], list[str]]] = {}
    for job in all_jobs(CIFAR10):
        done, open_ = names.setdefault(job.study, ([], []))
        (done if found.job(job.study, job.name) else open_).append(job.name)
    rows = [
        [f"`{study}`", ", ".join(done) or "none", ", ".join(left) or "none"] for study, (done, left) in names.items()
    ]
    rows.append(["`pipeline.py`", "done" if found.pipeline else "none", "none" if found.pipeline else "all"])
    rows.append(["`deps-train cifar10`, 200 epochs as published", "none", "all: it wants a GPU, and there was none"])
    text = table(["study", "done", "not done"], rows)
    for run in found.begun:
        last = run["lines"][-1]["epoch"]
        told = f"`{run['study']}/{run['job']}` is under way, {last} of {run['epochs']} epochs done."
        text += ["", f"{told} On the 5,000 validation images, BatchNorm recalibrated on 300:", ""]
        lines = run["lines"]
        rows = [
            [role, *["–" if line[role] is None else f"{100 * line[role]:.1f}" for line in lines]]
            for role in ("largest", "smallest")
        ]
        text += table(["top-1 %", *[f"epoch {line['epoch']}" for line in lines]], rows)
    return text


def source(studies: Sequence[str]) -> list[str]:
    """Return the command that makes a section's numbers and where they lie."""
    if not studies:
        return []
    trained = ",".join(study for study in studies if study != "pipeline")
    commands = [f"`run.py --only {trained}`"] + ["`pipeline.py`"] * ("pipeline" in studies)
    files = [f"`{study}.json`" if study == "pipeline" or "/" in study else f"`{study}/*.json`" for study in studies]
    return [f"From {' and '.join(files)} in `benchmarks/studies/results/`, by {' and '.join(commands)}.", ""]


def page(found: Evidence) -> tuple[str, dict[str, str]]:
    """Return the page, and the pictures by file name."""
    pictures: dict[str, str] = {}

    def with_pictures(made: tuple[list[str], dict[str, str]]) -> list[str]:
        pictures.update(made[1])
        return made[0]

    gradients = [*with_pictures(dynamics.gradients(found)), "", *dynamics.angles(found)]
    parts = [
        ("Setting", (), setting_text()),
        ("What is done, and what is not", (), done_text(found)),
        ("Methods", ("methods", "alone"), with_pictures(comparison.methods(found))),
        ("What was wanted", ("methods",), comparison.goals(found)),
        ("On the way", ("methods",), with_pictures(comparison.on_the_way_section(found))),
        ("Trials of the second half", ("finishes",), trials.finishes(found)),
        ("Ablations", ("ablations",), trials.ablations(found)),
        ("The start of shrinking", ("shrinking",), with_pictures(dynamics.shrinking(found))),
        ("Gradients", ("methods/deps-0", "angles"), gradients),
        ("A larger space", ("larger",), elsewhere.larger(found)),
        ("Other spaces", ("generalisation",), elsewhere.generalisation(found)),
        ("The whole pipeline", ("pipeline", "rivals"), delivery.pipeline(found)),
    ]
    lines = [
        "# Results",
        "",
        "Made by `python benchmarks/studies/page.py` from JSON; not edited by hand.",
        "",
    ]
    for title, studies, text in parts:
        lines += [f"## {title}", "", *source(studies), *text, ""]
    return "\n".join(lines).rstrip() + "\n", pictures


def readme_table(found: Evidence) -> str:
    """Return the README's first table, between its marks."""
    rows = []
    for stem in MAIN:
        if runs := found.runs("methods", stem):
            columns = list(zip(*map(tops, runs), strict=True))
            base = found.job("methods", "deps-0")
            cost = runs[0]["cost"]["flops"] / (base or runs[0])["cost"]["flops"]
            means = told([mean_top(r) for r in runs])
            rows.append([NAMES[stem], f"{cost:.2f}", told(columns[0]), means, told(columns[-1]), str(len(runs))])
    served = []
    if found.pipeline:
        served = [*delivery.served(found.pipeline), ""]
    larger = [line for sentence in elsewhere.larger_in_words(found) for line in ("", sentence)]
    header = ["trained by", "training cost", "smallest %", "mean of six %", "largest %", "seeds"]
    text = table(header, rows) if rows else ["No study is finished yet."]
    recipe = CIFAR10.whole_recipe()
    space = recipe.search_space(10)
    flops = [count(space, arch).flops / 1e6 for arch in uniform_subnets(space)]
    told_ = (
        f"CIFAR-10 on one core, {flops[0]:.1f} to {flops[-1]:.1f} million multiply-adds, top-1 of 10,000 test images; "
        f"a cost of 1 is {recipe.epochs} epochs of the paper's DεpS, late DεpS is a variant of ours"
    )
    return "\n".join([OPEN, f"{told_} ([all of it](docs/results.md)):", "", *served, *text, *larger, CLOSE])


def files(found: Evidence, readme: str) -> dict[Path, str]:
    """Return every file that is made, with its text.

    Raises:
        ValueError: the README has lost its marks.
    """
    text, pictures = page(found)
    head, tail = readme[: readme.index(OPEN)], readme[readme.index(CLOSE) + len(CLOSE) :]
    made = {PAGE: text, README: head + readme_table(found) + tail}
    return made | {PICTURES / name: picture for name, picture in pictures.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    made = files(Evidence.read(args.results), README.read_text(encoding="utf-8"))
    changed = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if args.check:
        for path in changed:
            print(f"{path.relative_to(ROOT)} is not what benchmarks/studies/page.py makes of the results; run it")
        return 1 if changed else 0
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, made[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
