"""DεpS, OFA, BigNAS and CompOFA at equal training multiply-adds, OFA at its own length, and each subnet alone.

DεpS trains for the setting's epochs; the others get as many, the last one cut short, as cost the same by the account of
``deps.train.cost`` (three multiply-adds a step for each of a forward pass, a teacher's forward once). OFA's own length
is what the paper gives it beside DεpS: with a fixed kernel 470 epochs beside 270.

Late DεpS, ours, trains at the common cost, and at 0.4 of each of the two that rivals have: those cost 2.5 times as much
then. At 0.4 also train, at one seed, DεpS as it is and the lean one, from which the late one was found; at a quarter,
the late one.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs import AloneJob, Job, SupernetJob
from setting import SUBNETS, Changes, Setting, lasting

from deps.train.recipes.late import LATE

STUDY = "methods"
ALONE = "alone"
METHODS = ("deps", "ofa", "bignas", "compofa")
LEAN: Changes = {"warmup_fraction": 0.75, "random_subnets": 1}
"""A later start and one random subnet a step."""

SHORT = 1 / 2.5
"""Of the setting's length: what DεpS is wanted to need for a rival's Pareto mean."""

QUARTER = 1 / 4
"""Of the setting's length: whether the late DεpS can do with so little."""

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
    """Return the late DεpS at the whole cost and at two parts; at the first seed also what else was tried at parts."""
    whole = setting.whole_recipe()

    def part(share: float) -> Changes:
        shorter = lasting(whole, round(100 * share * whole.epochs))
        return {"epochs": shorter.epochs, "last_epoch": shorter.last_epoch}

    def job(name: str, changes: Changes, ramp: float, like: Changes, share: float = 1.0) -> Job:
        given, named = {**changes, "epsilon_ramp": round(ramp * whole.epsilon_ramp, 6)}, f"{name}-{seed}"
        return SupernetJob(study=STUDY, name=named, seed=seed, changes=given, same_cost_as=like, share=share)

    short = part(SHORT)
    listed = [job("late-short", LATE, SHORT / 2, short), job("late", LATE, 0.5, {})]
    listed.append(job("late-mid", LATE, SHORT * OFA_LENGTH / 2, own_length(setting), SHORT))
    if seed == setting.seeds[0]:
        listed.append(job("late-quarter", LATE, QUARTER / 2, part(QUARTER)))
        ramp: Changes = {"epsilon_ramp": SHORT * whole.epsilon_ramp}
        listed.append(SupernetJob(study=STUDY, name=f"deps-short-{seed}", seed=seed, changes={**short, **ramp}))
        listed.append(job("lean-short", LEAN, SHORT, {**short, **ramp}))
    return listed


def own_length(setting: Setting) -> Changes:
    """Return what makes a recipe OFA at its own length."""
    return {"method": "ofa", "epochs": round(setting.changes["epochs"] * OFA_LENGTH)}


def full_length(setting: Setting, seed: int) -> Job:
    """Return OFA at its own length."""
    return SupernetJob(study=STUDY, name=f"ofa-full-{seed}", seed=seed, changes=own_length(setting))


def alone(seed: int) -> list[Job]:
    """Return the six subnets from scratch."""
    return [AloneJob(study=ALONE, name=f"subnet{index}-{seed}", seed=seed, index=index) for index in range(SUBNETS)]


def jobs(setting: Setting) -> list[Job]:
    """Return everything, every method at every seed."""
    listed: list[Job] = []
    for seed in setting.seeds:
        listed += [*equal_cost(METHODS, seed), *variants(setting, seed), *alone(seed), full_length(setting, seed)]
    return listed
