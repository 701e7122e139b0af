"""Replay arrivals through the scheduler alone, in virtual time: what its rules do, and which constants suit them.

The rules are those that serve (``deps.serve.scheduler``); batches take what was measured, with noise. No thread runs
and nothing waits, so an hour of load takes seconds.

    .venv/bin/python benchmarks/deadlines.py --out benchmarks/results/deadlines.json
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arrivals import Moments, gamma, mmpp

from deps.ground.provenance import provenance
from deps.serve import jobs as rules
from deps.serve.estimates import Estimates
from deps.serve.jobs import Job
from deps.serve.refusals import RefusedError
from deps.serve.scheduler import Ladder, Scheduler

DEADLINE_S = 0.1
ANSWER_S = 0.001
MAX_BATCH = 16

# Milliseconds of one image of once-for-all subnets at 128 pixels, one thread; a batch costs a little less an image.
ONE_MS = (1.4, 1.7, 2.5, 3.5, 5.2)
ACCURACIES = (0.62, 0.6303, 0.6506, 0.6669, 0.6855)
BATCH_GAIN = 0.12


@dataclass(frozen=True)
class Outcome:
    """What became of the requests of one replay."""

    requests: int
    in_time: float
    refused: float
    missed: float
    """Let in, and answered late or dropped."""

    accuracy: float
    """Mean over the requests that were answered in time."""

    goodput: float
    """Answered in time, a second."""


def curve(one_ms: float) -> list[float]:
    """Return seconds for 0 to the largest batch: a part of an image's time is spent once a batch."""
    return [0.0] + [one_ms / 1e3 * (n * (1 - BATCH_GAIN) + BATCH_GAIN) for n in range(1, MAX_BATCH + 1)]


def replay(moments: Moments, engines: Sequence[int], rng: np.random.Generator, noise: float = 0.08) -> Outcome:
    """Serve arrivals in virtual time with some of the subnets."""
    curves = [curve(ONE_MS[engine]) for engine in engines]
    accuracies = [ACCURACIES[engine] for engine in engines]
    scheduler = Scheduler(Estimates(curves), Ladder.of(accuracies, [one[1] for one in curves]))
    nobody = np.zeros((1, 1, 1, 1), np.float32)
    now, at, free_at, good, refused, missed, accuracy = 0.0, 0, 0.0, 0, 0, 0, 0.0
    while at < len(moments) or len(scheduler):
        while at < len(moments) and moments[at] <= now:
            arrival = float(moments[at])
            job = Job(images=nobody, size=1, arrival=arrival, settle=_nobody, deadline=arrival + DEADLINE_S - ANSWER_S)
            try:
                scheduler.admit(job, arrival)
            except RefusedError:
                refused += 1
            at += 1
        if now < free_at:
            now = min(free_at, float(moments[at])) if at < len(moments) else free_at
            continue
        missed += len(scheduler.drop_late(now))
        batch = scheduler.take(now)
        if batch is None:
            if at >= len(moments):
                break
            now = float(moments[at])
            continue
        slow = math.exp(rng.normal(0, noise)) * (1 + (rng.random() < 0.004) * rng.exponential(3))
        free_at = now + curves[batch.engine][batch.images] * slow
        for job in batch.jobs:
            if free_at <= job.deadline + ANSWER_S:
                good += 1
                accuracy += accuracies[batch.engine]
            else:
                missed += 1
        scheduler.finished(0, free_at)
        scheduler.estimates.observe(batch.engine, batch.images, free_at - now, free_at)
        now = min(free_at, float(moments[at])) if at < len(moments) and moments[at] < free_at else free_at
    total = max(1, len(moments))
    return Outcome(
        requests=len(moments),
        in_time=round(good / total, 4),
        refused=round(refused / total, 4),
        missed=round(missed / total, 4),
        accuracy=round(accuracy / max(1, good), 4),
        goodput=round(good / float(moments[-1]), 1),
    )


def _nobody(_: list[Job]) -> None:
    """Nobody waits in a simulation."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--aims", default="", help="shares of the deadline to try, e.g. 0.5,0.75,0.9")
    args = parser.parse_args()
    capacity = MAX_BATCH / curve(ONE_MS[-1])[MAX_BATCH]
    fastest = MAX_BATCH / curve(ONE_MS[0])[MAX_BATCH]
    everybody = range(len(ONE_MS))
    results: list[dict[str, Any]] = []
    for aim in [float(text) for text in args.aims.split(",")] if args.aims else [rules.AIM]:
        rules.AIM = aim
        loads = {
            "poisson 0.9": gamma(0.9 * capacity, args.seconds, 1, np.random.default_rng(1)),
            "poisson 1.3": gamma(1.3 * capacity, args.seconds, 1, np.random.default_rng(2)),
            "cv2=4 0.9": gamma(0.9 * capacity, args.seconds, 4, np.random.default_rng(3)),
            "cv2=4 1.3": gamma(1.3 * capacity, args.seconds, 4, np.random.default_rng(4)),
            "poisson 3.0": gamma(3 * capacity, args.seconds, 1, np.random.default_rng(5)),
            "mmpp": mmpp(0.5 * capacity, 0.8 * fastest, args.seconds, 2, 0.5, np.random.default_rng(6)),
        }
        for load, moments in loads.items():
            for name, engines in {
                "family": everybody,
                **({f"only {e}": [e] for e in everybody} if load in ("mmpp", "poisson 1.3", "poisson 0.9") else {}),
            }.items():
                outcome = replay(moments, engines, np.random.default_rng(7))
                results.append({"aim": aim, "load": load, "subnets": name, **vars(outcome)})
                print(json.dumps(results[-1]), flush=True)
    if args.out:
        report = {"capacity_per_s": round(capacity, 1), "results": results, "provenance": provenance()}
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
