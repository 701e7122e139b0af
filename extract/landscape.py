"""Put accuracy against cost for the picture: what was measured, what is foretold, what was chosen.

Relies on the measurements that were made anyway, and on the guide for the line between them.
"""

from __future__ import annotations

import numpy as np

from deps.extract.choose import standard_error
from deps.extract.evaluate import Measured
from deps.extract.goal import Aim
from deps.extract.guide import Guide
from deps.extract.report import Landscape
from deps.extract.search import Values, front
from deps.extract.select import Selection
from deps.supernet import SearchSpace


def find_landscape(
    space: SearchSpace, aim: Aim, guide: Guide, selection: Selection, rng: np.random.Generator
) -> Landscape | None:
    """Return the landscape around what was chosen; None where nothing was measured."""
    field, cost = selection.field, aim.cost
    if field.measured is None:
        return None
    _, front_costs, scores = front(space, guide.objective, cost, rng=rng)
    costs, top1 = np.asarray(cost(field.genes), np.float64), field.measured.top1
    bounds = {bound.axis.key: bound.maximum for bound in aim.bounds()}
    surveyed, chosen = guide.surveyed, list(selection.chosen)
    return Landscape(
        axis=aim.axis,
        bound=bounds.get(aim.axis.key),
        sample_costs=np.asarray(cost(surveyed.genes), np.float64) if surveyed else np.zeros(0),
        sample_accuracies=surveyed.measured.top1 if surveyed else np.zeros(0),
        front_costs=front_costs,
        front_accuracies=top1_at(-scores, surveyed.measured) if surveyed else scores,
        finalist_costs=costs[: field.finalists],
        finalist_accuracies=top1[: field.finalists],
        chosen_cost=float(costs[chosen[0]]),
        chosen_accuracy=float(top1[chosen[0]]),
        noise=standard_error(float(top1[chosen[0]]), field.images),
        family_costs=costs[chosen],
        family_accuracies=top1[chosen],
    )


def top1_at(loss: Values, measured: Measured) -> Values:
    """Return the top-1 that goes with a loss, by the straight line through measured subnets, which never rises.

    Where the measured show no such trend, the line is level.
    """
    spread = measured.loss - measured.loss.mean()
    slope = float(spread @ measured.top1) / max(float(spread @ spread), 1e-12)
    line = measured.top1.mean() + min(slope, 0.0) * (loss - measured.loss.mean())
    return np.asarray(np.clip(line, 0.0, 1.0), np.float64)
