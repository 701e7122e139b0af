"""The predictor learns what can be learnt, and its printed error is that of subnets it did not see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.extract.costs import cost_functions
from deps.extract.predictor import PENALTIES, _dot_features, _features, fit, spread
from deps.supernet import ArchSpec
from deps.supernet.sampling import decode, one_hot, random_genes
from strategies import spaces


def synthetic(digits, costs, count, noise=0.0):
    """Accuracies that depend on genes and on log FLOPs, as those of real supernets do."""
    rng = np.random.default_rng(3)
    genes = spread(digits, costs["flops"], count, rng, draws=3000)
    hot = one_hot(digits, genes)
    effects = np.random.default_rng(4).normal(size=hot.shape[1]) * 0.002
    accuracies = 0.9 + hot @ effects + 0.02 * np.log(costs["flops"](genes) / 7e5)
    return genes, accuracies + rng.normal(size=count) * noise


def test_the_error_printed_is_that_of_leaving_one_out(digits, costs):
    """The closed form must equal fitting once for each subnet left out, else the number means nothing."""
    genes, accuracies = synthetic(digits, costs, 25, noise=0.005)
    printed = fit(digits, genes, accuracies, totals=()).quality.mean_error
    raw = one_hot(digits, genes)
    scale = raw.std(axis=0)
    x = (raw - raw.mean(axis=0)) / np.where(scale < 1e-12, 1.0, scale)
    errors = []
    for penalty in PENALTIES:
        residuals = []
        for left_out in range(len(x)):
            rest = np.arange(len(x)) != left_out
            # Ridge with a free intercept: the column of ones is not penalised.
            design = np.c_[x[rest], np.ones(rest.sum())]
            penalties = np.diag([penalty] * x.shape[1] + [0.0])
            weights = np.linalg.solve(design.T @ design + penalties, design.T @ accuracies[rest])
            residuals.append(accuracies[left_out] - np.r_[x[left_out], 1.0] @ weights)
        errors.append(np.abs(residuals).mean())
    assert printed == pytest.approx(min(errors), rel=1e-6)


@settings(max_examples=20)
@given(space=spaces(), seed=st.integers(0, 99), has_totals=st.booleans())
def test_predictions_are_the_features_times_the_weights(space, seed, has_totals):
    """They are looked up choice by choice, a hundred times faster; left-out blocks must count nothing there too."""
    draws, functions = np.random.default_rng(seed), cost_functions(space, None)
    genes = random_genes(space, 30, draws)
    totals = (functions["flops"], functions["params"]) if has_totals else ()
    features = _features(space, totals, genes)
    slopes = draws.normal(size=features.shape[1])
    np.testing.assert_allclose(_dot_features(space, totals, genes, slopes), features @ slopes, atol=1e-9)


def test_a_rule_that_can_be_learnt_is_learnt(digits, costs):
    """With enough samples and no noise, unseen subnets are ranked almost rightly."""
    genes, accuracies = synthetic(digits, costs, 300)
    predictor = fit(digits, genes[:200], accuracies[:200], totals=(costs["flops"], costs["params"]))
    assert np.abs(predictor(genes[200:]) - accuracies[200:]).mean() < 5e-4
    assert predictor.quality.kendall_tau > 0.95
    assert predictor.quality.spearman > 0.99


def test_accuracies_that_mean_nothing_are_not_praised(digits, costs):
    """On pure noise the rank correlation must be near 0, and the error near the noise."""
    genes = random_genes(digits, 120, np.random.default_rng(0))
    accuracies = np.random.default_rng(1).normal(0.97, 0.01, 120)
    quality = fit(digits, genes, accuracies, totals=(costs["flops"],)).quality
    # Below 0 rather than near it: leaving out a high one lowers the mean that foretells it.
    assert quality.kendall_tau < 0.25
    assert "differ too little to be foretold" in quality.to_text()
    assert quality.mean_error > 0.006
    assert quality.spread == pytest.approx(np.abs(accuracies - accuracies.mean()).mean())


def test_equal_accuracies_give_no_correlation_and_no_warning(digits, costs):
    """A supernet that is right on every image has no order to find."""
    genes = random_genes(digits, 20, np.random.default_rng(0))
    predictor = fit(digits, genes, np.ones(20), totals=(costs["flops"],))
    assert predictor.quality.kendall_tau == predictor.quality.spearman == 0
    np.testing.assert_allclose(predictor(genes), 1.0)


def test_a_sample_is_spread_over_the_axis_and_holds_both_ends(digits, costs, rng):
    """A predictor is asked everywhere along the budget, most of all at the ends."""
    flops = costs["flops"]
    sample = spread(digits, flops, 40, rng)
    logs = np.log(flops(sample))
    filled = np.unique(((logs - logs.min()) / np.ptp(logs) * 9.999).astype(int))
    assert len(filled) >= 9
    archs = decode(digits, sample)
    assert len(set(archs)) == 40
    assert {ArchSpec.smallest(digits), ArchSpec.largest(digits)} <= set(archs)
