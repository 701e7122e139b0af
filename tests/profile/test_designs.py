"""The designed nets visit everything there is to measure, and the nets that judge a table were never fitted on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings

from deps.profile.designs import checking_genes, corner_genes, designed_genes
from deps.supernet import ArchSpec, SearchSpace, get_space
from deps.supernet.plan import plan
from deps.supernet.sampling import canonical, decode, random_archs
from strategies import SHIPPED, spaces


def keys_of(space: SearchSpace, archs: list[ArchSpec]) -> set[str]:
    return {piece.key for arch in archs for piece in plan(space, arch).pieces()}


@given(space=spaces())
@settings(max_examples=20, deadline=None)
def test_designed_nets_hold_every_piece_that_any_subnet_has(space: SearchSpace) -> None:
    """A piece that no designed net holds would have no entry, and its subnets no latency."""
    designed = decode(space, np.concatenate([designed_genes(space, r) for r in space.resolutions]))
    known = keys_of(space, designed)
    assert keys_of(space, random_archs(space, 50, np.random.default_rng(0))) <= known


def test_nine_nets_design_mobilenetv3() -> None:
    """Nine whole nets are measured in seconds; one net a table entry would take minutes."""
    space = get_space("ofa-mbv3-w1.0")
    genes = designed_genes(space, 224)
    assert len(genes) == 9
    pairs = [{(row[b], row[20 + b]) for row in genes} for b in range(20)]
    assert all(len(seen) == 9 for seen in pairs), "each position must meet each (kernel, expand) pair exactly once"


def test_designed_nets_are_alike_in_size() -> None:
    """A net of largest blocks only would be measured in another state of the caches than the rest."""
    space = get_space("ofa-mbv3-w1.0")
    macs = [sum(p.macs for p in plan(space, arch).pieces()) for arch in decode(space, designed_genes(space, 224))]
    assert max(macs) < 1.25 * min(macs)


def test_widths_meet_all_their_neighbours_in_resnet() -> None:
    """The first block of a stage depends on the width before it, so every pair of neighbouring widths must be met."""
    space = get_space("ofa-resnet50")
    archs = decode(space, designed_genes(space, 128))
    assert len(archs) == 27
    for left, right in itertools.pairwise(range(len(space.width_choices))):
        met = {(arch.widths[left], arch.widths[right]) for arch in archs}
        assert met == set(itertools.product(space.width_choices[left], space.width_choices[right]))


@pytest.mark.parametrize("space", SHIPPED, ids=lambda space: space.name)
def test_corners_hold_the_smallest_and_the_largest_subnet(space: SearchSpace) -> None:
    """Predictions are worst at the ends of a space, so a table is judged there."""
    resolution = space.resolutions[0]
    genes = corner_genes(space, resolution)
    archs = decode(space, genes)
    assert ArchSpec.smallest(space, resolution) in archs
    assert ArchSpec.largest(space, resolution) in archs
    stages = space.stages
    kinds = ([s.kernels for s in stages], space.depth_choices, [s.expands for s in stages], space.width_choices)
    elastic = sum(any(len(choices) > 1 for choices in kind) for kind in kinds)
    assert len(archs) == len(set(archs)) >= 2**elastic >= 4
    assert (canonical(space, genes) == genes).all()


@given(space=spaces())
@settings(max_examples=20, deadline=None)
def test_no_net_both_fits_and_judges(space: SearchSpace) -> None:
    """An error measured on what was fitted would be a lie, also in a space so small that nets run out."""
    resolution = space.resolutions[-1]
    anchors, held_out = checking_genes(space, resolution, np.random.default_rng(1), anchors=6, held_out=5)
    fitted, judging = decode(space, anchors), decode(space, held_out)
    assert not set(fitted) & set(judging)
    assert len(set(fitted)) == len(fitted) <= 6
    assert len(set(judging)) == len(judging)
    assert {arch.resolution for arch in fitted + judging} <= {resolution}


def test_anchors_span_the_sizes_that_random_nets_have() -> None:
    """A scale fitted on nets of one size says nothing of others."""
    space = get_space("ofa-mbv3-w1.0")
    anchors, _ = checking_genes(space, 224, np.random.default_rng(0), anchors=10, held_out=10)
    macs = [sum(p.macs for p in plan(space, arch).pieces()) for arch in decode(space, anchors)]
    assert len(macs) == 10
    assert macs == sorted(macs)
    ends = [ArchSpec.smallest(space, 224), ArchSpec.largest(space, 224)]
    least, most = (sum(p.macs for p in plan(space, arch).pieces()) for arch in ends)
    assert macs[0] < least + 0.25 * (most - least)
    assert macs[-1] > most - 0.25 * (most - least)


def test_same_seed_chooses_the_same_nets() -> None:
    """Two tables can be compared only when they were judged by the same nets."""
    space = get_space("digits")
    first, second = (checking_genes(space, 8, np.random.default_rng(7), anchors=5, held_out=5) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
