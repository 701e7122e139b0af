"""Whether some subnet meets a budget, and what would be needed where none does.

Relies on ``search.py``: the cheapest subnet is found as the best one is, with the cost as the objective.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from deps.extract.budget import Bound
from deps.extract.search import Function, Limit, excess, search
from deps.ground.errors import BudgetError
from deps.supernet import ArchSpec, SearchSpace
from deps.supernet.sampling import Genes, decode, encode


def check_feasible(space: SearchSpace, bounds: Sequence[Bound], *, rng: np.random.Generator) -> None:
    """Make sure that some subnet meets all bounds.

    Raises:
        BudgetError: none does; the message names the cheapest there is, and what it needs.
    """
    limits = [bound.limit for bound in bounds]
    if excess(limits, encode(space, [ArchSpec.smallest(space)]))[0] <= 0:
        return
    # By latency the smallest need not be the fastest, so the others are asked too.
    if search(space, lambda genes: -excess(limits, genes), limits, rng=rng, count=1).scores.size:
        return
    complaints, flags, cheapest = [], [], []
    for bound in bounds:
        row = _cheapest(space, bound.cost, rng)
        least = float(bound.cost(row)[0])
        if least > bound.maximum:
            word = "fastest" if bound.axis.key == "latency" else "smallest"
            complaints.append(f"{bound.write(bound.maximum)} ({word}: {bound.axis.write(least)})")
            flags.append(f"--{bound.axis.key} to {_enough(bound, least)}")
            cheapest.append(row)
    if complaints:
        raise BudgetError(
            f"no subnet of {space.name} meets {' and '.join(complaints)}; raise {' and '.join(flags)} or more; "
            f"{_told(space, cheapest[0], bounds, 'the cheapest')}"
        )
    nearest = search(space, lambda genes: -excess(limits, genes), rng=rng, count=1).genes
    told = " and ".join(bound.write(bound.maximum) for bound in bounds)
    names = " or ".join(dict.fromkeys(f"--{bound.axis.key}" for bound in bounds))
    raise BudgetError(
        f"no subnet of {space.name} meets {told} at once, though each can be met alone; raise {names}; "
        f"{_told(space, nearest, bounds, 'the nearest')}"
    )


def _cheapest(space: SearchSpace, cost: Function, rng: np.random.Generator) -> Genes:
    return search(space, lambda genes: -cost(genes), rng=rng, count=1).genes


def _told(space: SearchSpace, row: Genes, bounds: Sequence[Bound], which: str) -> str:
    needs = " and ".join(bound.write(float(bound.cost(row)[0])) for bound in bounds)
    return f"{which} needs {needs}: {decode(space, row)[0].to_text()}"


def _enough(bound: Bound, value: float) -> str:
    """Return a bound as it is typed, with three digits and no less than ``value``."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    text = bound.axis.write(math.ceil(value / step - 1e-9) * step)
    return text.removesuffix(" FLOPs").removesuffix(" parameters").replace(" ", "")


def fits_all(space: SearchSpace, limits: Sequence[Limit], rng: np.random.Generator) -> bool:
    """Whether every subnet meets all limits, as far as a search for the dearest can tell."""
    if excess(limits, encode(space, [ArchSpec.largest(space)]))[0] > 0:
        return False
    return all(float(search(space, limit.cost, rng=rng, count=1).scores[0]) <= limit.maximum for limit in limits)
