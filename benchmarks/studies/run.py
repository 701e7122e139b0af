"""Carry out the studies, one job after the other; what is done already is not done again.

    python benchmarks/studies/run.py --data DATA --runs FOLDER            all of them, in order; the same after a kill
    python benchmarks/studies/run.py --list                               what there is, and what is done or begun
    python benchmarks/studies/run.py … --only ablations                   one study; or one job: methods/ofa-0
    python benchmarks/studies/run.py --setting smoke --runs /tmp/s --results /tmp/s/results     the whole way in minutes

Each finished job is a JSON file in ``results/STUDY/``; ``page.py`` makes docs/results.md of them. Training into the
run folders under --runs is resumed at the last whole epoch after a kill, and in the middle of one after SIGTERM or
Ctrl-C. A job that fails is told, and the next one is begun.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import ablations
import finishes
import generalisation
import methods
import rivals
import shrinking
from jobs import SCHEMA_VERSION, Job, JobFailedError, Place
from setting import SETTINGS, Setting

from deps.ground.files import write_json
from deps.train.metrics import read_metrics
from deps.train.run import METRICS, read_recipe

RESULTS = Path(__file__).parent / "results"


def all_jobs(setting: Setting) -> list[Job]:
    """Return every job of every study, in the order in which they are done."""
    by_method = methods.jobs(setting)
    studies = (shrinking, finishes, ablations, rivals, generalisation)
    return [*by_method, *[job for study in studies for job in study.jobs(setting)]]


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
    failed: list[str] = []
    # Told to stop, it stops as with Ctrl-C, and the training that runs saves its state.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    listed = all_jobs(setting)
    for job in listed:
        if not is_wanted(job, only):
            continue
        is_done = place.result(job.study, job.name).exists()
        if args.list or is_done:
            print(f"{'done' if is_done else 'open'}  {job.study}/{job.name}", flush=True)
            continue
        print(f"now   {job.study}/{job.name}", flush=True)
        write_progress(place, listed)
        try:
            job.run(place)
        except JobFailedError as error:
            failed.append(f"{job.study}/{job.name}: {error}")
            print(f"bad   {failed[-1]}", flush=True)
    write_progress(place, listed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
