"""Architectures in bulk: distributions, enumeration, variation, features."""

from __future__ import annotations

import collections
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.ground.errors import ArchError, SpaceError
from deps.supernet import ArchSpec, ConvSpec, PoolSpec, SearchSpace, StageSpec, get_space
from deps.supernet.sampling import (
    active_blocks,
    all_genes,
    canonical,
    columns,
    crossover,
    decode,
    distinct,
    encode,
    mutate,
    neighbours,
    one_hot,
    random_archs,
    random_genes,
)
from strategies import SHIPPED, archs, spaces

SMALL = SearchSpace(
    name="enumerable",
    stem=(
        ConvSpec(widths=(8, 16), kernel=3, activation="relu"),
        ConvSpec(widths=(), kernel=3, activation="relu", is_optional=True),
    ),
    stages=(
        StageSpec(widths=(8,), depths=(1, 2), kernels=(3, 5), expands=(2, 3)),
        StageSpec(widths=(8, 16), depths=(1, 3), kernels=(3,), expands=(2, 3)),
    ),
    head=(PoolSpec(kind="mean"),),
    resolutions=(8, 12),
)
"""Every kind of axis, and few enough subnets to list: 2 depths of the stem, 4 widths, 20 · 10, 2 sizes."""


def rng(seed=0):
    return np.random.default_rng(seed)


@given(data=st.data(), space=spaces())
def test_genes_round_trip(data, space):
    drawn = [data.draw(archs(space)) for _ in range(3)]
    assert decode(space, encode(space, drawn)) == drawn


@given(space=spaces(), seed=st.integers(0, 2**32), uniform=st.sampled_from(("axes", "subnets")))
def test_random_rows_are_canonical_architectures(space, seed, uniform):
    genes = random_genes(space, 20, rng(seed), uniform=uniform)
    assert np.array_equal(canonical(space, genes), genes)
    assert np.array_equal(encode(space, decode(space, genes)), genes)
    for arch in decode(space, genes[:3]):
        arch.check(space)


@given(space=spaces(), seed=st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_subnets(space, seed):
    assert random_archs(space, 5, rng(seed)) == random_archs(space, 5, rng(seed))


def test_every_distinct_subnet_is_listed_once():
    genes = all_genes(SMALL)
    assert len(genes) == SMALL.size() == 2 * 2 * 2 * 20 * 10 * 2
    assert len(np.unique(genes, axis=0)) == len(genes)
    assert np.array_equal(canonical(SMALL, genes), genes)
    drawn = {row.tobytes() for row in random_genes(SMALL, 2000, rng())}
    assert drawn <= {row.tobytes() for row in genes}


def test_listing_needs_a_small_space():
    with pytest.raises(SpaceError, match=re.escape("5.44e+20 subnets; at most 2,000,000")):
        all_genes(get_space("ofa-mbv3-w1.0"))


def _chi_square_is_plausible(observed, expected):
    """Whether counts fit: the statistic is about its degrees of freedom, give or take five standard deviations."""
    statistic = float(((observed - expected) ** 2 / expected).sum())
    freedom = len(observed) - 1
    return statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_uniform_over_subnets_draws_every_subnet_alike():
    genes = random_genes(SMALL, 64_000, rng(1), uniform="subnets")
    counts = collections.Counter(row.tobytes() for row in genes)
    observed = np.array([counts[row.tobytes()] for row in all_genes(SMALL)])
    assert _chi_square_is_plausible(observed, 64_000 / len(observed))


def test_uniform_over_axes_draws_every_choice_alike():
    """The sandwich's rule: each depth equally often, though most subnets are deep."""
    count = 64_000
    genes = random_genes(SMALL, count, rng(2), uniform="axes")
    where, active = columns(SMALL), active_blocks(SMALL, genes)
    for column, choices in enumerate(where.choices):
        rows = genes[:, column]
        if column < where.expands.stop:
            rows = rows[active[:, column % len(SMALL.blocks)]]
        observed = np.bincount(rows, minlength=choices)
        assert len(observed) == choices
        if choices > 1:
            assert _chi_square_is_plausible(observed, len(rows) / choices), column


def test_the_two_distributions_differ():
    """Otherwise the two tests above could not tell them apart: 80 % of the subnets are deep in the second stage."""
    column = columns(SMALL).depths.start + 2
    deep = {u: random_genes(SMALL, 4000, rng(), uniform=u)[:, column].mean() for u in ("axes", "subnets")}
    assert deep["axes"] == pytest.approx(0.5, abs=0.05)
    assert deep["subnets"] == pytest.approx(0.8, abs=0.05)


def test_an_unknown_distribution_is_refused():
    with pytest.raises(SpaceError, match="expected axes or subnets"):
        random_genes(SMALL, 1, rng(), uniform="flops")


@given(space=spaces(), seed=st.integers(0, 2**32), probability=st.sampled_from((0.0, 0.1, 1.0)))
def test_mutants_belong_to_the_space(space, seed, probability):
    parents = random_genes(space, 10, rng(seed))
    children = mutate(space, parents, rng(seed + 1), probability=probability)
    assert np.array_equal(canonical(space, children), children)
    decode(space, children)
    if probability == 0:
        assert np.array_equal(children, parents)


def test_a_mutation_changes_the_share_of_genes_it_is_told_to():
    parents = encode(SMALL, [ArchSpec.largest(SMALL)] * 20_000)
    children = mutate(SMALL, parents, rng(), probability=0.4)
    # The resolution is drawn anew with 0.4, and half of the draws give what was there.
    assert (children[:, -1] != parents[:, -1]).mean() == pytest.approx(0.2, abs=0.02)


@given(space=spaces(), seed=st.integers(0, 2**32))
def test_a_child_has_each_active_gene_from_a_parent(space, seed):
    mothers, fathers = random_genes(space, 10, rng(seed)), random_genes(space, 10, rng(seed + 1))
    children = crossover(space, mothers, fathers, rng(seed + 2))
    assert np.array_equal(canonical(space, children), children)
    where, active = columns(space), active_blocks(space, children)
    inherited = (children == mothers) | (children == fathers)
    inherited[:, where.kernels] |= ~active
    inherited[:, where.expands] |= ~active
    assert inherited.all()


@given(data=st.data(), space=spaces())
def test_features_tell_architectures_apart(data, space):
    one, two = data.draw(archs(space)), data.draw(archs(space))
    first, second = one_hot(space, encode(space, [one, two]))
    assert (first.tolist() == second.tolist()) == (one == two)


@pytest.mark.parametrize("space", SHIPPED, ids=lambda space: space.name)
def test_features_have_one_hot_column_for_every_axis_that_varies(space):
    genes = random_genes(space, 50, rng())
    features = one_hot(space, genes)
    assert set(np.unique(features)) <= {0.0, 1.0}
    several = [axis for axis in space.axes if len(axis.choices) > 1]
    assert features.shape == (50, sum(len(axis.choices) for axis in several))
    per_block = sum(axis.kind in ("kernel", "expand") for axis in several) / len(space.blocks)
    elsewhere = sum(axis.kind not in ("kernel", "expand") for axis in several)
    multi = np.array([len(space.stages[s].kernels) > 1 for s, _ in space.blocks], int) + np.array(
        [len(space.stages[s].expands) > 1 for s, _ in space.blocks], int
    )
    assert per_block > 0
    assert np.array_equal(features.sum(1), active_blocks(space, genes) @ multi + elsewhere)


@given(data=st.data(), space=spaces())
@settings(max_examples=15)
def test_neighbours_differ_in_one_choice(data, space):
    arch = data.draw(archs(space))
    row = encode(space, [arch])[0]
    near = list(neighbours(space, row))
    for other in decode(space, np.array(near, np.uint8).reshape(-1, len(row))[:10]):
        assert other.check(space) != arch
    assert len({other.tobytes() for other in near}) == len(near)


def test_the_neighbours_of_the_smallest_subnet_are_as_many_as_its_free_choices():
    row = encode(SMALL, [ArchSpec.smallest(SMALL)])[0]
    # Kernel and ratio of one block, ratio of another, two stage depths, the stem's, two widths, a resolution.
    assert len(list(neighbours(SMALL, row))) == 2 + 1 + 2 + 1 + 2 + 1


def test_distinct_keeps_the_first_of_equal_rows():
    genes = np.array([[2, 1], [0, 0], [2, 1], [1, 1], [0, 0]], np.uint8)
    assert distinct(genes).tolist() == [[2, 1], [0, 0], [1, 1]]


def test_an_architecture_of_another_space_has_no_genes():
    with pytest.raises(ArchError):
        encode(SMALL, [ArchSpec.largest(get_space("digits"))])
