"""The table at the end of a run: accuracy of the smallest, a few random and the largest subnet.

Relies on images that were not trained on; BatchNorm is recalibrated for each subnet from training images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deps.ground.console import Story, text_table
from deps.ground.units import format_count, format_seconds
from deps.profile.flops import count
from deps.supernet.arch import ArchSpec
from deps.supernet.sampling import random_archs
from deps.supernet.supernet import Supernet
from deps.train.cost import Cost
from deps.train.data import ImageData
from deps.train.distributed import ALONE, Ranks
from deps.train.evaluate import accuracy, calibrated
from deps.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class SubnetResult:
    """Accuracy of one subnet."""

    role: str
    arch: ArchSpec
    flops: int
    params: int
    validation_top1: float
    """Share of right answers on the images that choices are made with."""

    test_top1: float
    """Share of right answers on the images kept for final numbers."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "role": self.role,
            "arch": self.arch.to_dict(),
            "flops": self.flops,
            "params": self.params,
            "validation_top1": self.validation_top1,
            "test_top1": self.test_top1,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainReport:
    """What ``deps-train`` answers."""

    folder: str
    recipe: str
    method: str
    epochs: int
    steps: int
    seconds: float
    """Time spent training, over all sittings."""

    images: dict[str, int]
    """Images of each split."""

    subnets: tuple[SubnetResult, ...]
    cost: Cost | None = None
    """What the training cost; None for runs that are older than the account."""

    def to_text(self) -> str:
        """Return the table that a person reads."""
        rows = [
            (
                subnet.role,
                format_count(subnet.flops),
                format_count(subnet.params),
                f"{100 * subnet.validation_top1:.2f}",
                f"{100 * subnet.test_top1:.2f}",
            )
            for subnet in sorted(self.subnets, key=lambda subnet: subnet.flops)
        ]
        table = text_table(("subnet", "FLOPs", "params", "val top-1 %", "test top-1 %"), rows)
        seen = self.images
        return (
            f"{table}\n\n"
            f"{self.recipe}, {self.method}: {self.epochs} epochs in {format_seconds(self.seconds)} on "
            f"{seen['train']:,} images; measured on {seen['validation']:,} and {seen['test']:,} it was not trained on\n"
            + (f"{self.cost.to_text()}\n" if self.cost else "")
            + f"supernet in {self.folder}; next: deps-extract --supernet {self.folder} --flops 300M --target cpu"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, which ``from_dict`` reads."""
        return {
            "folder": self.folder,
            "recipe": self.recipe,
            "method": self.method,
            "epochs": self.epochs,
            "steps": self.steps,
            "seconds": self.seconds,
            "images": self.images,
            "subnets": [subnet.to_dict() for subnet in self.subnets],
            "cost": self.cost.to_dict() if self.cost else None,
        }

    @classmethod
    def from_dict(cls, supernet_space: Any, value: dict[str, Any], *, folder: str) -> TrainReport:
        """Return the report that ``to_dict`` wrote, for a folder that may have moved."""
        subnets = tuple(
            SubnetResult(**{**subnet, "arch": ArchSpec.from_dict(supernet_space, subnet["arch"])})
            for subnet in value["subnets"]
        )
        fields = {name: value[name] for name in ("recipe", "method", "epochs", "steps", "seconds", "images")}
        cost = Cost.from_dict(value["cost"]) if value.get("cost") else None
        return cls(folder=folder, subnets=subnets, cost=cost, **fields)


def measured_archs(supernet: Supernet, recipe: Recipe) -> list[tuple[str, ArchSpec]]:
    """Return the subnets of the final table: smallest, random ones, largest."""
    space = supernet.space
    rng = np.random.default_rng((recipe.seed, 4))
    random = [("random", arch) for arch in random_archs(space, recipe.evaluation_subnets, rng)]
    return [("smallest", ArchSpec.smallest(space)), *random, ("largest", ArchSpec.largest(space))]


def measure(
    supernet: Supernet, data: ImageData, recipe: Recipe, story: Story, ranks: Ranks = ALONE
) -> tuple[SubnetResult, ...]:
    """Return the accuracy of the subnets of the final table; all ranks share the work."""
    results = []
    archs = measured_archs(supernet, recipe)
    for role, arch in story.track(archs, "measuring subnets", total=len(archs), unit="subnet"):
        module = calibrated(supernet, arch, data, images=recipe.calibration_images, ranks=ranks)
        cost = count(supernet.space, arch)
        results.append(
            SubnetResult(
                role=role,
                arch=arch,
                flops=cost.flops,
                params=cost.params,
                validation_top1=accuracy(module, data.validation, arch.resolution, ranks=ranks),
                test_top1=accuracy(module, data.test, arch.resolution, ranks=ranks),
            )
        )
    return tuple(results)
