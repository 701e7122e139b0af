"""What a subnet may cost: budgets as people type them, and the limits they put on a search.

Relies on ``deps.profile`` for what a subnet costs; every cost is a function of a whole population.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from deps.extract.search import Function, Limit, excess, search
from deps.ground.errors import BudgetError
from deps.ground.units import (
    format_bytes,
    format_count,
    format_ms,
    parse_bytes,
    parse_count,
    parse_ms,
)
from deps.supernet import ArchSpec, SearchSpace
from deps.supernet.sampling import encode


class Axis(NamedTuple):
    """One way to cost something."""

    key: str
    """Name of the cost."""

    field: str
    """Name of its bound in ``Budget``; the flag is ``--key``."""

    noun: str
    """How a person names it, e.g. on the axis of a plot."""

    read: Callable[[str], float]
    write: Callable[[float], str]


def _flops_text(value: float) -> str:
    return f"{format_count(value)} FLOPs"


def _params_text(value: float) -> str:
    return f"{format_count(value)} parameters"


AXES = (
    Axis("flops", "max_flops", "FLOPs", parse_count, _flops_text),
    Axis("latency", "max_latency_ms", "predicted latency", parse_ms, format_ms),
    Axis("params", "max_params", "parameters", parse_count, _params_text),
    Axis("size", "max_size_bytes", "size of the fp32 weights", parse_bytes, format_bytes),
    Axis("memory", "max_activation_bytes", "activation memory", parse_bytes, format_bytes),
)
"""Every axis, in the order in which they are shown; the first that is bounded is the axis of the plot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Upper bounds on what one subnet costs; None leaves an axis free, and no bound at all is a budget too."""

    max_flops: int | None = None
    """Multiply-adds for one image."""

    max_latency_ms: float | None = None
    """Milliseconds for one image, by the latency table of the target."""

    max_params: int | None = None
    """Number of parameters."""

    max_size_bytes: int | None = None
    """Bytes of the weights as fp32."""

    max_activation_bytes: int | None = None
    """Peak of the activations for one image, fp32."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 < value < float("inf"):
                raise BudgetError(f"{field.name} is {value}; a budget is a positive number")

    @classmethod
    def parse(cls, texts: Mapping[str, str | None]) -> Budget:
        """Return the budget that a person typed, by axis: ``{"flops": "300M", "latency": None}``.

        Raises:
            UnitError: a quantity that cannot be read.
        """
        values: dict[str, Any] = {axis.field: axis.read(text) for axis in AXES if (text := texts.get(axis.key))}
        return cls(**values)

    def bounds(self) -> list[tuple[Axis, float]]:
        """Return the axes that are bounded, with their bounds."""
        return [(axis, getattr(self, axis.field)) for axis in AXES if getattr(self, axis.field) is not None]

    @property
    def main_axis(self) -> Axis:
        """The axis that people will look at: the first bounded one, FLOPs when none is."""
        bounds = self.bounds()
        return bounds[0][0] if bounds else AXES[0]

    def describe(self) -> str:
        """Return the budget in words."""
        return " and ".join(axis.write(bound) for axis, bound in self.bounds()) or "no limit"

    def slug(self) -> str:
        """Return the budget as part of a file name, e.g. ``300M`` or ``300M-5ms``."""
        texts = [axis.write(bound) for axis, bound in self.bounds()]
        return "-".join(text.replace(" FLOPs", "").replace(" parameters", "p").replace(" ", "") for text in texts) or (
            "unlimited"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the bounds as plain JSON data."""
        return {axis.field: bound for axis, bound in self.bounds()}


def limits(budget: Budget, costs: Mapping[str, Function]) -> list[Limit]:
    """Return the limits of a search.

    Args:
        budget: the bounds.
        costs: what each axis costs, by its key.
    """
    return [Limit(costs[axis.key], bound) for axis, bound in budget.bounds()]


def check_feasible(
    space: SearchSpace, budget: Budget, costs: Mapping[str, Function], *, target: str, rng: np.random.Generator
) -> None:
    """Make sure that some subnet meets the budget.

    Raises:
        BudgetError: none does; the message names the cheapest there is on each axis that is too tight.
    """
    bounds = limits(budget, costs)
    smallest = encode(space, [ArchSpec.smallest(space)])
    if excess(bounds, smallest)[0] <= 0:
        return
    # By latency the smallest need not be the fastest, so the others are asked too.
    if search(space, lambda genes: -excess(bounds, genes), bounds, rng=rng, count=1).scores.size:
        return
    complaints, flags = [], []
    for axis, bound in budget.bounds():
        cheapest = _cheapest(space, costs[axis.key], rng)
        if cheapest > bound:
            word = "fastest" if axis.key == "latency" else "smallest"
            complaints.append(f"{axis.write(bound)} ({word}: {axis.write(cheapest)})")
            flags.append(f"--{axis.key}")
    where = f"{space.name}" + (f" on {target}" if budget.max_latency_ms is not None else "")
    if complaints:
        raise BudgetError(f"no subnet of {where} meets {' and '.join(complaints)}; raise {' and '.join(flags)}")
    flags = [f"--{axis.key}" for axis, _ in budget.bounds()]
    raise BudgetError(
        f"no subnet of {where} meets {budget.describe()} at once, though each can be met alone; "
        f"raise {' or '.join(flags)}"
    )


def _cheapest(space: SearchSpace, cost: Function, rng: np.random.Generator) -> float:
    return -float(search(space, lambda genes: -cost(genes), rng=rng, count=1).scores[0])


def fits_all(space: SearchSpace, bounds: Sequence[Limit], rng: np.random.Generator) -> bool:
    """Whether every subnet meets all limits, as far as a search for the dearest can tell."""
    if excess(bounds, encode(space, [ArchSpec.largest(space)]))[0] > 0:
        return False
    return all(float(search(space, limit.cost, rng=rng, count=1).scores[0]) <= limit.maximum for limit in bounds)
