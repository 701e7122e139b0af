"""What any subnet costs, as functions of whole populations, for the search to bound.

Relies on ``deps.profile``: closed forms for counts, and the target's measured table for latency.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deps.extract.search import Function, Values
from deps.ground.console import Story
from deps.ground.errors import DepsError, LatencyTableError
from deps.profile.additive import CostTable, LinearForm, evaluate, slots
from deps.profile.flops import cost_tables
from deps.profile.latency import ERROR_UNKNOWN, LatencyTable, find_table
from deps.profile.registry import choose_table
from deps.serve.targets import Target
from deps.supernet import ArchSpec, SearchSpace
from deps.supernet.sampling import Genes, columns


@dataclass(frozen=True, eq=False, slots=True)
class Cost:
    """What subnets cost: a function of populations, which also tells how it is put together from pieces."""

    function: Function
    sums: Callable[[int], LinearForm]
    """What each piece adds, at one resolution."""

    peaks: Callable[[int], LinearForm] | None = None
    """What counts of the largest piece alone, at one resolution; its constant is that of the pieces every net has."""

    def __call__(self, genes: Genes) -> Values:
        """Return the cost of each subnet."""
        return self.function(genes)


def cost_functions(space: SearchSpace, table: LatencyTable | None) -> dict[str, Cost]:
    """Return what each axis of a budget costs, by its key; latency only where a table knows it.

    Memory is that of the weights and of the feature maps that live at once.
    """
    flops, params, peak, size = cost_tables(space)

    def memory(genes: Genes) -> Values:
        weights, activations = evaluate([size, peak], genes)
        return np.asarray(weights + activations)

    functions = {
        "flops": Cost(flops, flops.linear_form),
        "params": Cost(params, params.linear_form),
        "size": Cost(size, size.linear_form),
        "memory": Cost(memory, size.linear_form, lambda resolution: _peaks(peak, resolution)),
    }
    if table is not None:
        functions["latency"] = Cost(
            lambda genes: np.asarray(table.predict_many(space, genes)),
            lambda resolution: table.linear_form(space, resolution),
        )
    return functions


def _peaks(table: CostTable, resolution: int) -> LinearForm:
    """Return the cost of each piece; the constant is that of the costliest piece that every net has."""
    space, where = table.space, columns(table.space)
    row = np.zeros((1, len(where.choices)), np.uint8)
    row[0, where.resolution] = space.resolutions.index(resolution)
    fixed = [
        float(values[slot.numbers(row)[0]])
        for slot, values in zip(slots(space), table.values, strict=True)
        if not slot.name.startswith("stages.") and slot.depth_column is None
    ]
    return replace(replace(table, reduce="sum").linear_form(resolution), constant=max(fixed))


def usable_table(
    run: Path, target: Target, space: SearchSpace, story: Story, *, is_needed: bool
) -> LatencyTable | None:
    """Return the latency table of a target, or None where there is none and none is needed.

    Raises:
        LatencyTableError: it is needed, and missing, damaged, or of another space.
        FileError: it is needed and cannot be read.
    """
    path = choose_table(run, target.name, space)
    if path.exists() and path != find_table(run, target.name):
        story.say(f"{run} has no latency table of {target.name}; taking {path}")
    if not path.exists():
        if is_needed:
            raise LatencyTableError(
                f"a latency budget needs times that were measured on {target.name}, and there is no {path}; "
                f"{_way_to_a_table(run, target)}"
            )
        return None
    try:
        table = LatencyTable.load(path)
        # Only what was measured can be searched; if the smallest subnet was not, the table is of another space.
        known = [resolution for resolution in space.resolutions if resolution in table.resolutions]
        table.predict(space, ArchSpec.smallest(space, resolution=known[0] if known else None))
    except DepsError as error:
        if is_needed:
            raise
        story.warn(f"latency is not predicted: {error}")
        return None
    if table.error is None:
        story.warn(f"latency of {target.name} is predicted by an {table.origin} table; {ERROR_UNKNOWN}")
    elif not table.beats_flops_line:
        story.warn(
            f"the latency table of {target.name} foretells no better than FLOPs do "
            f"({table.error.mape:.1%} against {table.error.flops_line_mape:.1%}); measure it again on a quiet machine"
        )
    return table


def _way_to_a_table(run: Path, target: Target) -> str:
    if target.name == "cpu":
        return f"make it with: deps-profile latency --supernet {run} --target cpu"
    return (
        f"write a kit with deps-profile kit --supernet {run} --target {target.name} --out kit, measure it on the "
        "device with deps-profile measure kit --out table.json, and lay the table into tables/; or bound what is "
        "counted instead, e.g. --flops 300M"
    )
