"""What is wanted: for each target its budget, its costs and its place; and which of these one search must satisfy.

Relies on ``costs.py`` for what is known of a target's speed. A search with ``--shared`` must keep the bounds of all
targets at once; otherwise each target is searched for by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deps.extract.budget import Axis, Bound, Budget, bounds_of
from deps.extract.bundle import check_place
from deps.extract.config import ExtractConfig
from deps.extract.costs import Cost, cost_functions, usable_table
from deps.extract.search import Limit
from deps.ground.console import Story
from deps.profile.latency import LatencyTable
from deps.serve.manifest import Latency
from deps.serve.targets import Target, get_target
from deps.supernet import ArchSpec, SearchSpace


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Goal:
    """One bundle that is wanted."""

    target: Target
    budget: Budget
    out: Path
    """Where the bundle appears."""

    costs: Mapping[str, Cost]
    """What each axis of a budget costs, by its key."""

    table: LatencyTable | None
    """The target's latency table, where there is one."""

    def bounds(self) -> list[Bound]:
        """Return the budget's bounds with what they are held against."""
        return bounds_of(self.budget, self.costs, self.target.name)

    def latency(self, space: SearchSpace, arch: ArchSpec) -> dict[str, Latency]:
        """Return what is foretold of a subnet's speed, by target; empty without a table, or outside of it."""
        if self.table is None or arch.resolution not in self.table.resolutions:
            return {}
        predicted = self.table.predict(space, arch)
        return {self.target.name: Latency(predicted_ms=predicted, error_ms=self.table.error_ms(predicted))}


@dataclass(frozen=True, eq=False, slots=True)
class Aim:
    """What one search must satisfy."""

    goals: tuple[Goal, ...]

    def bounds(self) -> list[Bound]:
        """Return the bounds of all goals; what several targets ask alike stands once."""
        kept: dict[str, Bound] = {}
        for goal in self.goals:
            for bound in goal.bounds():
                kept.setdefault(f"{bound.axis.key} {bound.write(bound.maximum)}", bound)
        return list(kept.values())

    def limits(self) -> list[Limit]:
        """Return the same for a search."""
        return [bound.limit for bound in self.bounds()]

    @property
    def axis(self) -> Axis:
        """The axis that people will look at."""
        return self.goals[0].budget.main_axis

    @property
    def cost(self) -> Cost:
        """What subnets cost on that axis."""
        return self.goals[0].costs[self.axis.key]

    def describe(self) -> str:
        """Return the budget in words."""
        return " and ".join(bound.write(bound.maximum) for bound in self.bounds()) or "no limit"

    def names(self) -> str:
        """Return the targets in words."""
        return ", ".join(goal.target.name for goal in self.goals)


def find_targets(config: ExtractConfig) -> list[Target]:
    """Return the targets, once it is sure that a bundle of each can be written.

    Raises:
        TargetError: a name is unknown, or the user's file is malformed.
        BundleError: something stands at a bundle's place that must stay.
        FileError: a bundle cannot be written at its place.
    """
    targets = [get_target(name, config.targets_file) for name in config.targets]
    for name in config.targets:
        check_place(config.place_of(name))
    return targets


def find_aims(
    config: ExtractConfig, targets: list[Target], run: Path, space: SearchSpace, story: Story
) -> tuple[Aim, ...]:
    """Return what is searched for: one aim a target, or one for all of them.

    Args:
        config: what is wanted.
        targets: the targets of ``config``, in its order.
        run: folder with latency tables.
        space: the search space.
        story: told of tables that cannot be used.

    Raises:
        LatencyTableError: a latency is bounded and no table knows it.
        FileError: a table that is needed cannot be read.
    """
    goals = []
    for name, target in zip(config.targets, targets, strict=True):
        budget = config.budget_of(name)
        table = usable_table(run, target, space, story, is_needed=budget.max_latency_ms is not None)
        costs = cost_functions(space, table)
        goals.append(Goal(target=target, budget=budget, out=config.place_of(name), costs=costs, table=table))
    return (Aim(tuple(goals)),) if config.is_shared else tuple(Aim((goal,)) for goal in goals)
