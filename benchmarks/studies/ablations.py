"""What each part of DεpS gives: one change at a time against ``methods/deps-0``, one seed.

Runs have the setting's epochs, so those with another share of warm-up have another cost, which the page tells.
"""

from __future__ import annotations

from typing import Any

from jobs import Job, SupernetJob
from setting import Setting

STUDY = "ablations"
TEACHER = "full"

WARMUPS = (0.2, 0.25, 0.4, 0.6, 0.75, 0.8)
"""Beside the setting's own of one half."""

CHANGES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("epsilon-off", "subnets at full weight from their first step", {"epsilon_shape": "constant"}),
    ("distill-from-start", "sandwich and distillation from the first step, with the ramp", {"warmup_fraction": 0.0}),
    ("labels", "subnets learn from labels, not from the full model", {"distill": False}),
    ("ramp-half", "a ramp of half an epoch", {"epsilon_ramp": 0.5}),
    ("ramp-two", "a ramp of two epochs", {"epsilon_ramp": 2.0}),
    ("ramp-cosine", "a ramp along a cosine", {"epsilon_shape": "cosine"}),
    ("gradient-average", "gradients of a step averaged, not summed", {"gradient_average": True}),
    ("reset-momentum", "momentum forgotten when the subnets join", {"reset_momentum": True}),
    ("unsorted", "channels not sorted", {"sort_channels": False}),
    ("temperature-2", "soft labels at temperature 2", {"distill_temperature": 2.0}),
    ("lr-0.05", "half the learning rate", {"lr": 0.05}),
    ("lr-0.2", "twice the learning rate", {"lr": 0.2}),
)


def jobs(setting: Setting) -> list[Job]:
    """Return the ablations, the paper's own first."""
    seed = setting.seeds[0]

    def job(name: str, why: str, changes: dict[str, Any], teacher: str = "") -> Job:
        return SupernetJob(study=STUDY, name=name, seed=seed, changes=changes, why=why, teacher=teacher)

    listed = [job(f"warmup-{w:g}", f"the full model alone for {w:.0%}", {"warmup_fraction": w}) for w in WARMUPS]
    listed += [job(name, why, changes) for name, why, changes in CHANGES[:2]]
    listed.append(job(TEACHER, "the full model alone to the end, a finished teacher", {"warmup_fraction": 1.0}))
    listed.append(
        job("finished-teacher", "subnets learn from it, not from the one in training", {}, f"{STUDY}/{TEACHER}")
    )
    listed += [job(name, why, changes) for name, why, changes in CHANGES[2:]]
    return listed
