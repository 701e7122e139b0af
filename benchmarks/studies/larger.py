"""Does it hold where networks are three times as large and learn for longer: DεpS and OFA at equal cost, one seed.

The narrow MobileNetV3 space, 3 to 9 million multiply-adds, DεpS for the setting's ``larger_epochs``; beside both the
late DεpS at 0.4 of their cost, as in ``methods.py``.
"""

from __future__ import annotations

from jobs import Job, SupernetJob
from methods import SHORT
from setting import Changes, Setting

from deps.train.recipes.late import LATE

STUDY = "larger"


def jobs(setting: Setting) -> list[Job]:
    """Return DεpS, OFA at its cost, and the late DεpS at a part of it."""
    seed, (recipe, own) = setting.seeds[0], setting.larger
    base: Changes = {**setting.shortened(setting.larger_epochs), **own}

    def job(name: str, changes: Changes, like: Changes | None = base, share: float = 1.0) -> Job:
        given, named = {**base, **changes}, f"{name}-{seed}"
        return SupernetJob(
            study=STUDY, name=named, seed=seed, recipe=recipe, changes=given, same_cost_as=like, share=share
        )

    late: Changes = {**LATE, "epsilon_ramp": round(base["epsilon_ramp"] * SHORT / 2, 6)}
    return [job("deps", {}, None), job("ofa", {"method": "ofa"}), job("late-short", late, share=SHORT)]
