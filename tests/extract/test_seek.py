"""The search with all it has finds the optimum wherever the optimum can be known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.extract.additive import fit_additive
from deps.extract.costs import cost_functions
from deps.extract.search import Limit
from deps.extract.seek import seek
from deps.supernet import get_space
from deps.supernet.sampling import all_genes, one_hot, random_genes
from strategies import invented_spaces


def rugged(space, seed):
    """An objective that is not a sum over genes."""
    rng = np.random.default_rng(seed)
    width = one_hot(space, random_genes(space, 1, rng)).shape[1]
    linear, pairs = rng.normal(size=width), rng.normal(size=(width, 3))
    return lambda genes: one_hot(space, genes) @ linear + np.tanh(one_hot(space, genes) @ pairs).sum(axis=1)


@settings(max_examples=12)
@given(
    space=invented_spaces().filter(lambda space: space.size() <= 20_000),
    seed=st.integers(0, 99),
    share=st.floats(0.01, 1),
    is_listed=st.booleans(),
)
def test_the_true_optimum_is_found_in_every_space_that_can_be_listed(space, seed, share, is_listed):
    """Every time, with the listing and without it: only there is the truth known."""
    costs, objective = cost_functions(space, None), rugged(space, seed)
    everything = all_genes(space)
    bound = float(np.quantile(costs["flops"](everything), share))
    limits = [Limit(costs["flops"], bound)]
    enumerable = len(everything) if is_listed else 0
    found = seek(space, objective, limits, rng=np.random.default_rng(seed), enumerable=enumerable).result
    assert found.is_exact == is_listed
    best = float(objective(everything[costs["flops"](everything) <= bound]).max())
    assert found.scores[0] == pytest.approx(best, abs=1e-9)


def test_of_a_sum_the_search_reaches_the_proven_bound(rng):
    """Ten to the twenty subnets, and the solver proves that there is none better than the one found."""
    space = get_space("ofa-mbv3-w1.0")
    costs = cost_functions(space, None)
    limits = [Limit(costs["flops"], 250e6), Limit(costs["memory"], 22e6)]
    sums = fit_additive(space, rugged(space, 1), limits, rng=rng)
    found, yardstick = seek(space, sums, limits, rng=rng)
    assert yardstick is not None
    assert yardstick.is_exact
    assert found.scores[0] == pytest.approx(yardstick.bound, abs=2e-3 * yardstick.spread)
    assert "holds for the predictor too" in yardstick.to_text("loss", sign=-1)


def test_a_space_of_elastic_widths_is_searched_without_the_solver(rng):
    """There costs are no sums; the search must not need them to be."""
    space = get_space("cifar-resnet50")
    limits = [Limit(cost_functions(space, None)["flops"], 1e9)]
    found, yardstick = seek(space, rugged(space, 0), limits, rng=rng)
    assert yardstick is None
    assert len(found.genes) == 8
