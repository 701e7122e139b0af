"""A family covers the front as well as its number of subnets can, at the resolution whose front is best."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from deps.extract.budget import Budget
from deps.extract.costs import cost_functions
from deps.extract.family import area_under, select_family, spread_out
from deps.extract.goal import Aim, Goal
from deps.extract.guide import Guide
from deps.ground.console import Story
from deps.serve.targets import get_target


@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_points_are_spread_as_the_best_of_all_subsets_is(rng, size):
    """Compared with every subset that has both ends."""
    costs, scores = np.sort(rng.uniform(1, 100, 11)), np.sort(rng.normal(size=11))
    floor, high = float(scores[0]), float(costs[-1])

    def area(kept):
        return area_under(costs[list(kept)], scores[list(kept)], high=high, floor=floor)

    kept = spread_out(costs, scores, size)
    assert (kept[0], kept[-1], len(kept)) == (0, 10, size)
    best = max(area((0, *middle, 10)) for middle in itertools.combinations(range(1, 10), size - 2))
    assert area(kept) == pytest.approx(best)


def test_a_front_of_fewer_points_is_taken_whole():
    """There is no more to give."""
    np.testing.assert_array_equal(spread_out(np.array([1.0, 2.0]), np.array([0.0, 1.0]), 5), [0, 1])


def test_a_crowded_front_keeps_its_ends():
    """Thousands of points would take the square of that; thinned, they cover as much but for rounding."""
    costs = np.geomspace(1, 100, 5000)
    kept = spread_out(costs, np.log(costs), 4)
    np.testing.assert_allclose(costs[kept], np.geomspace(1, 100, 4), rtol=0.03)


def test_an_area_grows_with_every_point_of_a_front():
    """By hand: 1 from e to e^2, then 3 to the end at e^3; below the floor nothing counts."""
    costs, scores = np.exp([0.0, 1.0, 2.0]), np.array([-5.0, 1.0, 3.0])
    assert area_under(costs, scores, high=float(np.exp(3)), floor=0.0) == pytest.approx(4)
    assert area_under(costs[1:], scores[1:], high=float(np.exp(3)), floor=0.0) == pytest.approx(4)


@pytest.mark.parametrize(("better", "gene"), [(8, 0), (12, 1)])
def test_the_resolution_of_the_best_front_is_taken_and_told(digits, tmp_path, rng, capsys, better, gene):
    """All subnets of a bundle take images of one size."""
    space = replace(digits, resolutions=(8, 12))
    costs = cost_functions(space, None)
    budget = Budget(max_flops=1_200_000)
    goal = Goal(target=get_target("cpu"), budget=budget, out=tmp_path, costs=costs, table=None)

    def predict(genes):
        return np.log(costs["flops"](genes)) + 3.0 * (genes[:, -1] == gene)

    guide = Guide(quantity="top1", predict=predict, source="a formula")
    selection = select_family(space, Aim((goal,)), guide, None, rng, Story(), size=4, finalists=2)
    assert [arch.resolution for arch in selection.archs] == [better] * 4
    flops = costs["flops"](selection.field.genes[list(selection.chosen)])
    assert (np.diff(flops) < 0).all()
    assert flops[0] <= 1_200_000
    assert f"a family takes images of one size: {better} px" in capsys.readouterr().err
