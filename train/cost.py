"""What a training costs: images seen, multiply-adds, device-hours, and joules where they can be read.

Convention: a training step of a network on one image costs 3 times its forward multiply-adds (one forward, and a
backward of about twice that); a teacher's forward costs 1. Measuring accuracy is not counted, time and joules are those
of the whole sitting. Relies on ``profile.flops`` for the multiply-adds of a forward pass.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from deps.ground.energy import EnergyMeter
from deps.ground.units import format_count, format_seconds
from deps.profile.flops import costs
from deps.supernet.arch import ArchSpec
from deps.supernet.sampling import encode
from deps.supernet.space import SearchSpace
from deps.train.distributed import Ranks
from deps.train.methods import StepPlan

FORWARD_AND_BACKWARD = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The account of a training, over all its sittings and ranks."""

    images: dict[str, int] = field(default_factory=dict)
    """Images that passed forward and backward through a subnet, by its role; forward only for ``teacher``."""

    flops: int = 0
    """Multiply-adds of training, 3 for each of a forward pass."""

    device_seconds: float = 0.0
    """Seconds times processes, each of which has one GPU, or a processor's threads."""

    joules: float | None = 0.0
    """Energy of the machines while training; None where it could not be read all the time."""

    energy_source: str = "none"
    """What joules were read from."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, which ``from_dict`` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Cost:
        """Return the account that ``to_dict`` wrote."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: entry for name, entry in value.items() if name in known})

    def to_text(self) -> str:
        """Return one line for a person."""
        images = ", ".join(f"{role} {format_count(count)}" for role, count in self.images.items())
        energy = f"{self.joules / 3.6e6:.3g} kWh ({self.energy_source})" if self.joules is not None else "joules unread"
        return (
            f"images through {images}; {format_count(self.flops)} multiply-adds; "
            f"{format_seconds(self.device_seconds)} of device time; {energy}"
        )


class CostAccount:
    """Adds up what the steps of one sitting cost, from where a former sitting stopped."""

    def __init__(self, space: SearchSpace, before: Cost, meter: EnergyMeter) -> None:
        self.space, self.before, self.meter = space, before, meter
        self.images: Counter[str] = Counter(before.images)
        self.flops = before.flops
        self._pending: list[tuple[ArchSpec, int]] = []

    def add(self, plan: StepPlan, batch_size: int) -> None:
        """Take down one step of the whole batch."""
        for share in plan.shares:
            self.images[share.role] += batch_size
            self._pending.append((share.arch, FORWARD_AND_BACKWARD * batch_size))
        if any(share.loss in ("finished", "teacher") for share in plan.shares):
            self.images["teacher"] += batch_size
            self._pending.append((ArchSpec.largest(self.space, plan.shares[0].arch.resolution), batch_size))

    def total(self, ranks: Ranks, seconds: float, *, is_cut_off: bool = False) -> Cost:
        """Return the account up to now; all ranks must ask together.

        Args:
            ranks: the processes that train.
            seconds: of this sitting.
            is_cut_off: whether the other ranks cannot be asked any more; what their machines drew is then unknown.
        """
        if self._pending:
            # Counted in bulk, since counting one architecture costs as much as a small training step.
            flops = costs(self.space, encode(self.space, [arch for arch, _ in self._pending])).flops
            self.flops += sum(int(each) * images for each, (_, images) in zip(flops, self._pending, strict=True))
            self._pending.clear()
        # One meter a machine: what it reads belongs to all processes there.
        mine = self.meter.joules if ranks.local_rank == 0 else 0.0
        unread, joules = (1.0, 0.0) if is_cut_off else ranks.sum_numbers(float(mine is None), mine or 0.0)
        before = self.before.joules
        return Cost(
            images=dict(self.images),
            flops=self.flops,
            device_seconds=self.before.device_seconds + seconds * ranks.size,
            joules=None if unread or before is None or math.isnan(joules) else before + joules,
            energy_source=self.meter.source,
        )
