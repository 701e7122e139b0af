"""Choose several subnets along the Pareto front for one bundle, so that a server can trade accuracy for time.

Relies on every subnet of a bundle taking images of one size: the size is chosen whose front covers most, by the area
under it (hypervolume). Why stands in ``docs/decisions/0012-a-family-has-one-resolution.md``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deps.extract.choose import choose
from deps.extract.evaluate import Evaluator
from deps.extract.goal import Aim
from deps.extract.guide import Guide
from deps.extract.search import Evolution, Function, Limit, Values, front, search
from deps.extract.select import Field, Selection, measured_field
from deps.ground.console import Story
from deps.ground.errors import BudgetError
from deps.supernet import SearchSpace
from deps.supernet.sampling import Genes, columns, distinct

BRIEF = Evolution(population=200, generations=20)
"""One search of many, each of which starts from what its neighbour found."""


CROWDED = 400
"""A front of more points is thinned first, evenly along the logarithm of the cost: its points hardly differ."""


class _View:
    """The part of a space at one resolution, and the fronts and searches of it."""

    def __init__(self, space: SearchSpace, resolution: int, aim: Aim, guide: Guide) -> None:
        self.resolution, self.space = resolution, replace(space, resolutions=(resolution,))
        self._column = columns(space).resolution
        self._gene = space.resolutions.index(resolution)
        self.objective, self.cost = self._seen(guide.objective), self._seen(aim.cost)
        self.limits = [Limit(self._seen(limit.cost), limit.maximum) for limit in aim.limits()]

    def whole(self, genes: Genes) -> Genes:
        """Return rows of this part as rows of the whole space."""
        rows = genes.copy()
        rows[:, self._column] = self._gene
        return rows

    def _seen(self, function: Function) -> Function:
        return lambda genes: function(self.whole(genes))

    def front(self, rng: np.random.Generator) -> tuple[Genes, Values, Values]:
        """Return genes, costs and scores along the front within the budget, cheapest first."""
        return front(self.space, self.objective, self.cost, self.limits, rng=rng)

    def best(self, maximum: float, start: Genes, count: int, rng: np.random.Generator) -> tuple[Genes, int]:
        """Return the best that cost no more than ``maximum``, and how many were scored."""
        limits = [*self.limits, Limit(self.cost, maximum * (1 + 1e-9))]
        found = search(self.space, self.objective, limits, rng=rng, count=count, start=start, evolution=BRIEF)
        return found.genes, found.evaluated


def select_family(
    space: SearchSpace,
    aim: Aim,
    guide: Guide,
    evaluator: Evaluator | None,
    rng: np.random.Generator,
    story: Story,
    *,
    size: int,
    finalists: int,
) -> Selection:
    """Return up to ``size`` subnets of one resolution along the front, most accurate first.

    Each is what a search with its cost as the budget would have chosen among what was measured.

    Args:
        space: the search space.
        aim: what must hold; some subnet meets it.
        guide: foretells what is not measured.
        evaluator: measures the candidates; None takes what is foretold.
        rng: source of randomness.
        story: told which resolution was taken, and how many subnets there are.
        size: how many subnets are wanted, at least two.
        finalists: how many of the best that are foretold are measured at each of ``size`` costs.
    """
    views = [_View(space, resolution, aim, guide) for resolution in space.resolutions]
    fronts = [view.front(rng) for view in views]
    chosen = _largest_front(views, fronts, story)
    view, (genes, costs, scores) = views[chosen], fronts[chosen]
    picks = spread_out(costs, scores, size)
    if evaluator is None:
        field = measured_field(space, guide, None, view.whole(genes[picks]), aim.limits(), story)
        return Selection(field, tuple(range(len(picks)))[::-1], None, len(genes), is_exact=False)

    parts, evaluated = [genes[picks]], 0
    for maximum in costs[picks]:
        best, scored = view.best(float(maximum), genes, finalists, rng)
        parts.append(best)
        evaluated += scored
    field = measured_field(space, guide, evaluator, view.whole(distinct(np.concatenate(parts))), aim.limits(), story)
    # What was surveyed at other resolutions is no candidate.
    field = _at_resolution(field, view.resolution)
    chain = _chain(field, aim)
    assert field.measured is not None
    spread = spread_out(aim.cost(field.genes[chain]), -field.measured.loss[chain], size)
    if len(spread) < size:
        story.say(f"the measured subnets of {view.resolution} px hold a front of {len(spread)} only; these are taken")
    rows = tuple(int(chain[index]) for index in spread[::-1])
    choice = choose(field.measured.top1, field.measured.loss, field.images)
    return Selection(field, rows, choice, evaluated, is_exact=False)


def _largest_front(views: list[_View], fronts: list[tuple[Genes, Values, Values]], story: Story) -> int:
    """Return the index of the front of the largest area, and tell all areas."""
    some = [(costs, scores) for _, costs, scores in fronts if len(costs)]
    if not some:
        raise BudgetError("no front was found within the budget; raise it, or ask for one subnet, without --family")
    high = max(float(costs[-1]) for costs, _ in some)
    floor = min(float(scores[0]) for _, scores in some)
    areas = [area_under(costs, scores, high=high, floor=floor) if len(costs) else -1.0 for _, costs, scores in fronts]
    best = int(np.argmax(areas))
    if len(views) > 1:
        told = ", ".join(
            f"{view.resolution} px {area:.4g}" for view, area in zip(views, areas, strict=True) if area >= 0
        )
        story.say(
            f"a family takes images of one size: {views[best].resolution} px, whose front covers most within the "
            f"budget (area: {told})"
        )
    return best


def area_under(costs: Values, scores: Values, *, high: float, floor: float) -> float:
    """Return the hypervolume of a front: how far its scores rise above ``floor``, over the logarithm of the cost.

    Args:
        costs: ascending.
        scores: ascending.
        high: where the area ends; no cost is above it.
        floor: the score below which nothing counts.
    """
    widths = np.diff(np.append(np.log(costs), math.log(high)))
    return float(np.maximum(scores - floor, 0) @ widths)


def spread_out(costs: Values, scores: Values, size: int) -> NDArray[np.intp]:
    """Return which points of a front cover most when only ``size`` are kept: both ends, and those between exactly.

    Dynamic programming over how many are kept and which is the last: keeping point i and next point j covers the
    score of i over the logarithm of the costs between them.

    Args:
        costs: of the points of the front, ascending and positive.
        scores: of the same.
        size: how many to keep, at least two.

    Source: subset selection for hypervolume, Bringmann, Friedrich, Klitzke, GECCO 2014.
    """
    if len(costs) > CROWDED:
        grid = np.linspace(math.log(costs[0]), math.log(costs[-1]), CROWDED)
        thin = np.unique(np.clip(np.searchsorted(np.log(costs), grid), 0, len(costs) - 1))
        kept: NDArray[np.intp] = thin[spread_out(costs[thin], scores[thin], size)]
        return kept
    count = len(costs)
    if count <= size:
        return np.arange(count)
    x, height = np.log(costs), scores - scores.min()
    gain = (x[None, :] - x[:, None]) * height[:, None]
    gain[np.tril_indices(count)] = -np.inf
    covered = np.full(count, -np.inf)
    covered[0] = 0.0
    came_from = []
    for _ in range(size - 1):
        through = covered[:, None] + gain
        came_from.append(through.argmax(axis=0))
        covered = through.max(axis=0)
    path = [count - 1]
    for step in reversed(came_from):
        path.append(int(step[path[-1]]))
    return np.array(path[::-1])


def _at_resolution(field: Field, resolution: int) -> Field:
    rows = [row for row, arch in enumerate(field.archs) if arch.resolution == resolution]
    assert field.measured is not None
    measured = type(field.measured)(*[values[rows] for values in field.measured])
    archs = [field.archs[row] for row in rows]
    return field._replace(genes=field.genes[rows], archs=archs, predicted=field.predicted[rows], measured=measured)


def _chain(field: Field, aim: Aim) -> NDArray[np.intp]:
    """Return what would be chosen under each budget, cheapest first, each subnet once."""
    assert field.measured is not None
    (top1, loss), costs = field.measured, np.asarray(aim.cost(field.genes))
    left, chain = np.arange(len(costs)), []
    while len(left):
        best = left[choose(top1[left], loss[left], field.images).chosen]
        chain.append(int(best))
        left = left[costs[left] < costs[best]]
    return np.array(chain[::-1])
