"""Does it hold in another space: DεpS and OFA at equal cost, one seed, in a ResNet and in the ProxylessNAS space."""

from __future__ import annotations

from jobs import Job, SupernetJob
from setting import Setting

STUDY = "generalisation"


def jobs(setting: Setting) -> list[Job]:
    """Return both methods of each family."""
    seed, listed = setting.seeds[0], list[Job]()
    for family, (recipe, changes) in setting.families.items():
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
