"""What each part of DεpS gives: one change at a time against a base of the same length, one seed.

Trainings are short, the setting's ``short_epochs``, since there are many; the base is DεpS as it is at that length, at
every seed, so that it shows how far apart two runs of the same are.
Those with another share of warm-up have another cost, which the page tells. What changes the second half alone is tried
in ``finishes.py``, which is cheaper.
"""

from __future__ import annotations

from typing import Any

from jobs import Job, SupernetJob
from setting import Setting

STUDY = "ablations"
BASE = "base"
TEACHER = "full"

WARMUPS = (0.2, 0.25, 0.4, 0.6, 0.75, 0.8)
"""Beside the setting's own of one half."""

CHANGES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("epsilon-off", "subnets at full weight from their first step", {"epsilon_shape": "constant"}),
    ("fan-out", "initial weights by fan-out instead of fan-in", {"initial": "fan-out"}),
    ("distill-from-start", "sandwich and distillation from the first step, with the ramp", {"warmup_fraction": 0.0}),
)


def jobs(setting: Setting) -> list[Job]:
    """Return the base and the ablations, the paper's own first."""
    seed, short = setting.seeds[0], setting.shortened(setting.short_epochs)

    def job(name: str, why: str, changes: dict[str, Any], teacher: str = "", seed: int = seed) -> Job:
        return SupernetJob(study=STUDY, name=name, seed=seed, changes={**short, **changes}, why=why, teacher=teacher)

    listed = [job(BASE, "DεpS as it is", {})]
    listed += [job(f"{BASE}-{seed}", f"the same, seed {seed}", {}, seed=seed) for seed in setting.seeds[1:]]
    listed += [job(f"warmup-{w:g}", f"the full model alone for {w:.0%}", {"warmup_fraction": w}) for w in WARMUPS]
    listed += [job(name, why, changes) for name, why, changes in CHANGES]
    listed.append(job(TEACHER, "the full model alone to the end, a finished teacher", {"warmup_fraction": 1.0}))
    listed.append(
        job("finished-teacher", "subnets learn from it, not from the one in training", {}, f"{STUDY}/{TEACHER}")
    )
    ramp = short["epsilon_ramp"]
    listed.append(job("ramp-half", "a ramp half as long", {"epsilon_ramp": ramp / 2}))
    listed.append(job("ramp-two", "a ramp twice as long", {"epsilon_ramp": 2 * ramp}))
    return listed
