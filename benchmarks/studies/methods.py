"""DεpS, OFA, BigNAS and CompOFA at equal training multiply-adds, OFA at its own length, and each subnet alone.

DεpS trains for the setting's epochs; the others get as many, the last one cut short, as cost the same by the account of
``deps.train.cost`` (three multiply-adds a step for each of a forward pass, a teacher's forward once). DεpS also trains
by a schedule of 0.4 of the length, to be held against rivals that cost 2.5 times as much. OFA's own length is what the
paper gives it beside DεpS: with a fixed kernel 470 epochs beside 270.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs import AloneJob, Job, SupernetJob
from setting import SUBNETS, Changes, Setting, lasting

STUDY = "methods"
ALONE = "alone"
METHODS = ("deps", "ofa", "bignas", "compofa")
LEAN: Changes = {"warmup_fraction": 0.75, "random_subnets": 1}
"""DεpS with a later start and one random subnet a step instead of two: at equal cost half as many epochs more."""

SHORT = 1 / 2.5
"""Of the setting's length: what DεpS is wanted to need for a rival's Pareto mean."""

OFA_LENGTH = 470 / 270
"""Epochs of OFA's phases without the kernel's, and of DεpS, in the paper's count for ImageNet."""


def equal_cost(methods: Sequence[str], seed: int) -> list[Job]:
    """Return methods at one seed; DεpS first, since its cost is what the others get."""
    jobs: list[Job] = [SupernetJob(study=STUDY, name=f"deps-{seed}", seed=seed, diagnose=25 if seed == 0 else 0)]
    for method in methods[1:]:
        changes = {"method": method}
        jobs.append(SupernetJob(study=STUDY, name=f"{method}-{seed}", seed=seed, changes=changes, same_cost_as={}))
    return jobs


def variants(setting: Setting, seed: int) -> list[Job]:
    """Return DεpS by a schedule of a part of the cost, and the lean DεpS at the whole and at the part."""
    whole = setting.whole_recipe()
    shorter = lasting(whole, round(100 * SHORT * whole.epochs))
    ramp: Changes = {"epsilon_ramp": SHORT * whole.epsilon_ramp}
    short: Changes = {"epochs": shorter.epochs, "last_epoch": shorter.last_epoch, **ramp}
    return [
        SupernetJob(study=STUDY, name=f"deps-short-{seed}", seed=seed, changes=short),
        SupernetJob(study=STUDY, name=f"lean-short-{seed}", seed=seed, changes={**LEAN, **ramp}, same_cost_as=short),
        SupernetJob(study=STUDY, name=f"lean-{seed}", seed=seed, changes=LEAN, same_cost_as={}),
    ]


def full_length(setting: Setting, seed: int) -> Job:
    """Return OFA at its own length."""
    epochs = round(setting.changes["epochs"] * OFA_LENGTH)
    return SupernetJob(study=STUDY, name=f"ofa-full-{seed}", seed=seed, changes={"method": "ofa", "epochs": epochs})


def alone(seed: int) -> list[Job]:
    """Return the six subnets from scratch."""
    return [AloneJob(study=ALONE, name=f"subnet{index}-{seed}", seed=seed, index=index) for index in range(SUBNETS)]


def jobs(setting: Setting) -> list[Job]:
    """Return everything, every method at every seed."""
    listed: list[Job] = []
    for seed in setting.seeds:
        listed += [*equal_cost(METHODS, seed), *variants(setting, seed), *alone(seed), full_length(setting, seed)]
    return listed
