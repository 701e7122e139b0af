"""The additive model is the nearest sum to an objective, and says how near."""

from __future__ import annotations

import numpy as np
import pytest

from deps.extract.additive import fit_additive, is_additive
from deps.extract.costs import cost_functions
from deps.extract.search import Limit
from deps.supernet import get_space
from deps.supernet.sampling import one_hot, random_genes


def test_a_sum_is_found_again(rng):
    """Costs are sums of what blocks cost, so the model of one must be exact, at every resolution."""
    space = get_space("ofa-mbv3-w1.0")
    weights = rng.normal(size=one_hot(space, random_genes(space, 1, rng)).shape[1])
    limits = [Limit(cost_functions(space, None)["flops"], 300e6)]
    model = fit_additive(space, lambda genes: one_hot(space, genes) @ weights, limits, rng=rng)
    genes = random_genes(space, 500, rng)
    np.testing.assert_allclose(model(genes), one_hot(space, genes) @ weights, atol=1e-3)
    assert model.error < 1e-4 * model.spread


def test_what_is_no_sum_has_an_error_that_is_told(digits, rng):
    """Whoever reads the bound must know how far to believe it."""

    def objective(genes):
        hot = one_hot(digits, genes)
        return np.tanh(hot[:, :8].sum(axis=1) - 2) * hot[:, 8:].sum(axis=1)

    model = fit_additive(digits, objective, [], rng=rng)
    genes = random_genes(digits, 2000, rng)
    seen = np.abs(model(genes) - objective(genes)).mean()
    assert model.error == pytest.approx(seen, rel=0.25)
    assert 0.01 * model.spread < model.error < model.spread


def test_elastic_widths_are_no_sums():
    """What a block costs there depends on its neighbours' widths."""
    assert is_additive(get_space("ofa-mbv3-w1.0"))
    assert not is_additive(get_space("ofa-resnet50"))
