"""Carry out the studies, one job after the other; what is done already is not done again.

    python benchmarks/studies/run.py --data DATA --runs FOLDER            all of them, in order; the same after a kill
    python benchmarks/studies/run.py --list                               the jobs, what is done, and the hours it takes
    python benchmarks/studies/run.py … --only ablations                   one study; or one job: methods/ofa-0
    python benchmarks/studies/run.py --setting smoke --runs /tmp/s --results /tmp/s/results     the whole way in minutes

Each finished job is a JSON file in ``results/STUDY/``; ``page.py`` makes docs/results.md of them. Training into the
run folders under --runs is resumed at the last whole epoch after a kill, and in the middle of one after SIGTERM or
Ctrl-C. A job that fails is told, and the next one is begun.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import signal
import sys
from pathlib import Path

import ablations
import angles
import finishes
import generalisation
import larger
import methods
import rivals
import shrinking
from evidence import Evidence
from jobs import SCHEMA_VERSION, Job, JobFailedError, Place
from setting import SETTINGS, Setting

from deps.ground.allocator import keep_freed_memory
from deps.ground.files import write_json
from deps.train.metrics import read_metrics
from deps.train.run import METRICS, read_recipe

RESULTS = Path(__file__).parent / "results"


ORDER = (
    *("methods/deps-0", "methods/ofa-0", "methods/bignas-0", "methods/compofa-0"),
    *("methods/*-short-0", "methods/late-*0", "alone/*-0", "angles/*", "shrinking/*"),
    *("methods/deps-*", "methods/late-*", "methods/ofa-[0-9]", "methods/bignas-*", "ablations/base"),
    *("ablations/warmup-0.25", "ablations/warmup-0.75", "ablations/epsilon-off", "ablations/distill-from-start"),
    *("finishes/*", "rivals/shipped-*", "rivals/*", "generalisation/*", "ablations/*", "alone/*-1", "methods/*-1"),
    *("methods/ofa-full-0", "alone/*-2", "methods/*-2"),
    *("larger/ofa-*", "larger/deps-*", "larger/late-short-*", "larger/*"),
)
"""What the page gains most by comes first; what no line names comes last."""

USUAL_RATE = 4e9
"""Multiply-adds of training a second of one core, where nothing was measured yet."""


def all_jobs(setting: Setting) -> list[Job]:
    """Return every job of every study, in the order in which they are done."""
    studies = (methods, shrinking, angles, finishes, ablations, rivals, generalisation, larger)
    listed = [job for study in studies for job in study.jobs(setting)]

    def place(job: Job) -> int:
        name = f"{job.study}/{job.name}"
        return next((i for i, pattern in enumerate(ORDER) if fnmatch.fnmatchcase(name, pattern)), len(ORDER))

    return sorted(listed, key=place)


def measured_rate(found: Evidence) -> float:
    """Return the multiply-adds a second of the least disturbed epoch of all trainings so far."""
    rates = [USUAL_RATE] if not found.by_study.get(methods.STUDY) else []
    for result in found.by_study.get(methods.STUDY, {}).values():
        curve = [{"flops": 0, "seconds": 0.0}, *result["curve"]]
        rates += [(b["flops"] - a["flops"]) / (b["seconds"] - a["seconds"]) for a, b in itertools.pairwise(curve)]
    return max(rates)


def listing(place: Place, only: list[str]) -> list[str]:
    """Return a line for each job: done, begun or open, its minutes, the hours until it is done; and what is left."""
    rate, left, lines = measured_rate(Evidence.read(place.results)), 0.0, []
    for job in all_jobs(place.setting):
        if not is_wanted(job, only):
            continue
        minutes = job.planned(place.setting) / rate / 60
        is_done = place.result(job.study, job.name).exists()
        state = "done" if is_done else "begun" if (place.runs / job.study / job.name).exists() else "open"
        left += 0.0 if is_done else minutes
        until = "" if is_done else f"{left / 60:.1f} h"
        lines.append(f"{state:5}  {minutes:5.0f} min  {until:>6}  {job.study}/{job.name}")
    lines.append(
        f"left: {left / 60:.1f} hours of one core at {rate / 1e9:.1f} G multiply-adds a second, the rate of the least "
        "disturbed epoch; begun jobs count whole, measuring comes on top"
    )
    return lines


def is_wanted(job: Job, only: list[str]) -> bool:
    """Whether a job is of the studies, or one of the jobs, that were asked for."""
    return not only or job.study in only or f"{job.study}/{job.name}" in only


def write_progress(place: Place, listed: list[Job]) -> None:
    """Write what is known of trainings that are begun and not done, from the line that each epoch leaves."""
    begun = []
    for job in listed:
        folder = place.runs / job.study / job.name
        if place.result(job.study, job.name).exists() or not (folder / METRICS).exists():
            continue
        lines = [
            {"epoch": record["epoch"], "epsilon": round(record["epsilon"], 4), "seconds": record["seconds"]}
            | {role: record.get(f"validation_top1/{role}") for role in ("largest", "smallest")}
            for record in read_metrics(folder)
        ]
        if not lines:
            continue
        begun.append({"study": job.study, "job": job.name, "epochs": read_recipe(folder).epochs, "lines": lines})
    write_json(place.results / "progress.json", {"schema_version": SCHEMA_VERSION, "begun": begun})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="where run folders are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--setting", choices=SETTINGS, default="cifar10")
    parser.add_argument("--only", default="", help="studies, or STUDY/JOB, with commas")
    parser.add_argument("--list", action="store_true", help="say what is done and do nothing")
    args = parser.parse_args()
    setting = SETTINGS[args.setting]
    place = Place(setting, args.runs, args.results, args.data)
    only = [word for word in args.only.split(",") if word]
    if args.list:
        print("\n".join(listing(place, only)))
        return 0
    failed: list[str] = []
    # Told to stop, it stops as with Ctrl-C, and the training that runs saves its state.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    keep_freed_memory()
    listed = all_jobs(setting)
    for job in listed:
        if not is_wanted(job, only):
            continue
        is_done = place.result(job.study, job.name).exists()
        if is_done:
            print(f"done  {job.study}/{job.name}", flush=True)
            continue
        print(f"now   {job.study}/{job.name}", flush=True)
        write_progress(place, listed)
        try:
            job.run(place)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here", flush=True)
            return 130
        except JobFailedError as error:
            failed.append(f"{job.study}/{job.name}: {error}")
            print(f"bad   {failed[-1]}", flush=True)
    write_progress(place, listed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
