"""What a subnet may cost: budgets as people type them, and the limits they put on a search.

Relies on ``deps.profile`` for what a subnet costs; every cost is a function of a whole population.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from deps.extract.search import Function, Limit
from deps.ground.errors import BudgetError
from deps.ground.units import (
    format_bytes,
    format_count,
    format_ms,
    parse_bytes,
    parse_count,
    parse_ms,
)


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
    Axis("memory", "max_memory_bytes", "memory", parse_bytes, format_bytes),
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

    max_memory_bytes: int | None = None
    """Bytes of the weights and of the feature maps that live at once, for one image, fp32."""

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


class Bound(NamedTuple):
    """One bound of a budget, with what it is held against."""

    axis: Axis
    maximum: float
    cost: Function
    target: str
    """Whose budget it is."""

    @property
    def limit(self) -> Limit:
        """The same for a search."""
        return Limit(self.cost, self.maximum)

    def write(self, value: float) -> str:
        """Return a cost in words; times say of which target they are."""
        return self.axis.write(value) + (f" on {self.target}" if self.axis.key == "latency" else "")


def bounds_of(budget: Budget, costs: Mapping[str, Function], target: str) -> list[Bound]:
    """Return the bounds of a budget.

    Args:
        budget: the bounds.
        costs: what each axis costs, by its key.
        target: whose budget it is.
    """
    return [Bound(axis, maximum, costs[axis.key], target) for axis, maximum in budget.bounds()]


def parse_latencies(text: str | None) -> tuple[float | None, dict[str, float]]:
    """Return the milliseconds that hold on every target, and those of single targets.

    Args:
        text: ``5ms``, or ``cpu=5ms,rtx=1ms``.

    Raises:
        UnitError: a duration that cannot be read.
        BudgetError: two durations for one target, or for all and for single ones.
    """
    if text is None:
        return None, {}
    if "=" not in text:
        return parse_ms(text), {}
    found: dict[str, float] = {}
    for part in text.split(","):
        target, equals, duration = part.strip().partition("=")
        if not equals or not target or target in found:
            raise BudgetError(
                f"{text!r} is not a latency for each target; write one for all, e.g. 5ms, or each target once, "
                "e.g. cpu=5ms,rtx=1ms"
            )
        found[target] = parse_ms(duration)
    return None, found
