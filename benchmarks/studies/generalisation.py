"""Does it hold in another space: DεpS and OFA at equal cost, one seed, in a ResNet and in the ProxylessNAS space.

Trainings have the setting's ``short_epochs``. The narrow ProxylessNAS space hardly learns at the learning rate of the
others, as MobileNetV2 does not (``rivals.py``); it is trained at MobileNetV2's too, ``proxyless-slow``.
"""

from __future__ import annotations

from jobs import Job, SupernetJob
from setting import Setting

STUDY = "generalisation"


def jobs(setting: Setting) -> list[Job]:
    """Return both methods of each family."""
    seed, listed, short = setting.seeds[0], list[Job](), setting.shortened(setting.short_epochs)
    for family, (recipe, own) in setting.families.items():
        changes = {**short, **own}
        for method in ("deps", "ofa"):
            listed.append(
                SupernetJob(
                    study=STUDY,
                    name=f"{family}-{method}",
                    seed=seed,
                    recipe=recipe,
                    changes={**changes, "method": method},
                    same_cost_as=None if method == "deps" else changes,
                )
            )
    return listed
