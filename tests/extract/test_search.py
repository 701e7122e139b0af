"""The search keeps its limits, finds what enumeration finds, and gives the same answer to the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.extract.costs import cost_functions
from deps.extract.search import (
    Evolution,
    Function,
    Limit,
    Values,
    double_swaps,
    excess,
    front,
    pareto,
    search,
    single_swaps,
)
from deps.supernet import SearchSpace, get_space
from deps.supernet.sampling import Genes, all_genes, canonical, neighbours, one_hot, random_genes
from strategies import spaces

BRIEF = Evolution(population=60, generations=15)


def rugged(space: SearchSpace, seed: int) -> Function:
    """An objective that is not a sum over genes: random weights, and random products of pairs."""
    weights = np.random.default_rng(seed)
    width = one_hot(space, random_genes(space, 1, weights)).shape[1]
    linear, pairs = weights.normal(size=width), weights.normal(size=(width, 3))

    def objective(genes: Genes) -> Values:
        hot = one_hot(space, genes)
        return hot @ linear + np.tanh(hot @ pairs).sum(axis=1)

    return objective


@settings(max_examples=15)
@given(space=spaces(), seed=st.integers(0, 99), share=st.floats(0, 1), is_exact=st.booleans())
def test_every_result_meets_the_limits_and_is_canonical(space, seed, share, is_exact):
    """A subnet over the budget is worthless on the device, however accurate it is."""
    costs, rng = cost_functions(space, None), np.random.default_rng(seed)
    sample = random_genes(space, 200, rng)
    limits = [Limit(costs[key], float(np.quantile(costs[key](sample), share))) for key in ("flops", "memory")]
    enumerable = 10_000 if is_exact else 0
    found = search(space, rugged(space, seed), limits, rng=rng, evolution=BRIEF, enumerable=enumerable)
    assert (excess(limits, found.genes) <= 0).all()
    np.testing.assert_array_equal(found.genes, canonical(space, found.genes))
    assert (np.diff(found.scores) <= 0).all()
    np.testing.assert_allclose(found.scores, rugged(space, seed)(found.genes))


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_evolution_finds_the_optimum_of_a_space_that_can_be_listed(digits, costs, seed, share):
    """Where the truth is known, the search for large spaces must find it."""
    flops = costs["flops"]
    everything = all_genes(digits)
    bound = float(np.quantile(flops(everything), share))
    limits, objective = [Limit(flops, bound)], rugged(digits, seed)
    exact = search(digits, objective, limits, rng=np.random.default_rng(0))
    evolved = search(digits, objective, limits, rng=np.random.default_rng(seed), enumerable=0)
    feasible = everything[flops(everything) <= bound]
    assert exact.is_exact
    assert exact.scores[0] == pytest.approx(objective(feasible).max())
    assert not evolved.is_exact
    assert evolved.scores[0] == pytest.approx(exact.scores[0], abs=1e-9)


def test_the_same_seed_gives_the_same_subnets(costs):
    """A result that cannot be made again cannot be trusted."""
    space = get_space("ofa-mbv3-w1.0")
    limits = [Limit(cost_functions(space, None)["flops"], 300e6)]
    one, two = (
        search(space, rugged(space, 3), limits, rng=np.random.default_rng(7), evolution=BRIEF) for _ in range(2)
    )
    np.testing.assert_array_equal(one.genes, two.genes)


def test_evolution_beats_as_many_random_subnets():
    """Otherwise it would not be worth its code."""
    space = get_space("ofa-mbv3-w1.0")
    objective, limit = rugged(space, 0), Limit(cost_functions(space, None)["flops"], 250e6)
    found = search(space, objective, [limit], rng=np.random.default_rng(0), evolution=BRIEF)
    drawn = random_genes(space, 10 * found.evaluated, np.random.default_rng(1))
    drawn = drawn[excess([limit], drawn) <= 0]
    assert found.scores[0] > objective(drawn).max()


def test_a_good_start_is_never_lost(digits, costs, rng):
    """A search that is seeded by an exact solver must not end below it."""
    objective = rugged(digits, 5)
    exact = search(digits, objective, rng=rng)
    hasty = Evolution(population=10, generations=1)
    seeded = search(digits, objective, rng=rng, start=exact.genes[:1], evolution=hasty, enumerable=0)
    assert seeded.scores[0] == pytest.approx(exact.scores[0])


def test_limits_that_nothing_meets_give_an_empty_result(digits, costs, rng):
    """The caller names the cheapest subnet then; the search must not return the least bad one as if it fitted."""
    impossible = [Limit(costs["flops"], 10.0)]
    for enumerable in (0, 10**6):
        found = search(digits, rugged(digits, 0), impossible, rng=rng, evolution=BRIEF, enumerable=enumerable)
        assert len(found.genes) == len(found.scores) == 0


def test_what_costs_infinitely_much_is_never_chosen(rng):
    """A latency table gives infinity for what was not measured."""
    space = get_space("ofa-mbv3-w1.0")

    def cost(genes: Genes) -> Values:
        return np.where(genes[:, -1] == 0, 1.0 + genes.sum(axis=1), np.inf)

    found = search(space, rugged(space, 1), [Limit(cost, 60.0)], rng=rng, evolution=BRIEF)
    assert len(found.genes) > 0
    assert (found.genes[:, -1] == 0).all()
    _, front_costs, _ = front(space, rugged(space, 1), cost, rng=rng, points=3)
    assert np.isfinite(front_costs).all()


def test_single_swaps_are_the_neighbours(digits, rng):
    """The vectorised form must agree with the plain one."""
    row = random_genes(digits, 1, rng)[0]
    plain = {tuple(other.tolist()) for other in neighbours(digits, row)}
    swapped = {tuple(other.tolist()) for other in single_swaps(digits, row)}
    assert plain == swapped - {tuple(row.tolist())}
    twice = {tuple(far.tolist()) for near in neighbours(digits, row) for far in neighbours(digits, near)}
    doubled = {tuple(other.tolist()) for other in double_swaps(digits, row)}
    assert doubled <= twice | plain | {tuple(row.tolist())}
    assert len(doubled - plain) > len(plain)


def test_pareto_keeps_exactly_what_nothing_beats(rng):
    """Compared with the definition, written as a double loop."""
    costs, scores = rng.integers(0, 20, 200).astype(float), rng.integers(0, 20, 200).astype(float)
    kept = pareto(costs, scores)
    assert (np.diff(costs[kept]) > 0).all()
    assert (np.diff(scores[kept]) > 0).all()
    for cost, score in zip(costs, scores, strict=True):
        beaten = any(c <= cost and s >= score for c, s in zip(costs[kept], scores[kept], strict=True))
        assert beaten


def test_the_front_of_a_listed_space_is_the_true_one(digits, costs, rng):
    """The picture must not promise what is not there, nor hide what is."""
    objective = rugged(digits, 2)
    genes, front_costs, front_scores = front(digits, objective, costs["flops"], rng=rng)
    everything = all_genes(digits)
    all_costs, all_scores = costs["flops"](everything), objective(everything)
    for cost, score in zip(front_costs, front_scores, strict=True):
        assert score == pytest.approx(all_scores[all_costs <= cost].max())
    np.testing.assert_allclose(costs["flops"](genes), front_costs)
