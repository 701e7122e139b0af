"""Counts equal those of fvcore and of the literature, and one subnet's count equals its row among many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.ground.errors import ArchError
from deps.profile.flops import Cost, costs, count, fvcore_flops
from deps.supernet import ArchSpec, SearchSpace, get_space
from deps.supernet.plan import plan
from deps.supernet.sampling import encode, random_archs, random_genes
from strategies import SHIPPED, archs, invented_spaces, spaces

PUBLISHED = [
    # space, multiply-adds of the smallest and largest subnet at 224 px in millions, parameters of both
    ("ofa-mbv3-w1.0", 121.279, 566.171, 3_410_792, 7_664_760),
    ("ofa-mbv3-w1.2", 193.078, 843.101, 4_602_456, 10_701_632),
    ("ofa-proxyless-w1.3", 265.526, 1004.908, 3_718_832, 7_942_056),
    ("ofa-resnet50", 962.192, 7491.644, 6_539_280, 48_105_992),
]


@pytest.mark.parametrize(("name", "least", "most", "least_params", "most_params"), PUBLISHED)
def test_totals_are_the_published_ones(
    name: str, least: float, most: float, least_params: int, most_params: int
) -> None:
    """Budgets such as 300M mean what they mean in the papers of these spaces."""
    space = get_space(name)
    smallest = count(space, ArchSpec.smallest(space, 224))
    largest = count(space, ArchSpec.largest(space, 224))
    assert (smallest.flops / 1e6, largest.flops / 1e6) == pytest.approx((least, most), abs=0.0006)
    assert (smallest.params, largest.params) == (least_params, most_params)


@pytest.mark.parametrize("space", SHIPPED, ids=lambda space: space.name)
def test_fvcore_counts_the_same(space: SearchSpace) -> None:
    """Somebody else's count of the real network agrees, also at 132 px, where every map is odd."""
    odd = 132 if 132 in space.resolutions else space.resolutions[-1]
    rng = np.random.default_rng(len(space.name))
    small = [ArchSpec.smallest(space), ArchSpec.smallest(space, odd), ArchSpec.largest(space, odd)]
    for arch in [*small, *random_archs(space, 2, rng)]:
        assert count(space, arch).flops == fvcore_flops(space, arch), arch.to_text()


@pytest.mark.slow
@pytest.mark.parametrize("space", SHIPPED, ids=lambda space: space.name)
def test_fvcore_counts_many_random_subnets_alike(space: SearchSpace) -> None:
    """Random subnets of every shipped space, at whatever resolutions they come with; fewer where each takes long."""
    for arch in random_archs(space, 16 if space.resolutions[-1] <= 32 else 4, np.random.default_rng(7)):
        assert count(space, arch).flops == fvcore_flops(space, arch), arch.to_text()


@given(data=st.data(), space=invented_spaces())
@settings(max_examples=20, deadline=None)
def test_fvcore_counts_the_same_in_spaces_that_users_may_write(data: st.DataObject, space: SearchSpace) -> None:
    """A user's own space is counted by the same code, with any mixture of choices."""
    arch = data.draw(archs(space))
    assert count(space, arch).flops == fvcore_flops(space, arch)


@given(data=st.data(), space=spaces())
@settings(max_examples=60, deadline=None)
def test_one_count_is_a_row_of_many(data: st.DataObject, space: SearchSpace) -> None:
    """What the search bounded is what the report prints."""
    chosen = data.draw(st.lists(archs(space), min_size=1, max_size=4))
    many = costs(space, encode(space, chosen))
    rows = zip(many.flops, many.params, many.activation_bytes, many.weight_bytes, strict=True)
    assert [Cost(*map(int, row)) for row in rows] == [count(space, arch) for arch in chosen]


@pytest.mark.parametrize("space", SHIPPED, ids=lambda space: space.name)
def test_a_net_costs_the_sum_of_its_blocks(space: SearchSpace) -> None:
    """The conventions hold block by block, so tables of blocks add up."""
    for arch in random_archs(space, 5, np.random.default_rng(3)):
        subnet, cost = plan(space, arch), count(space, arch)
        convolutions = sum(conv.macs for piece in subnet.pieces() for conv in piece.convolutions())
        squeezes = sum(s.macs for piece in subnet.pieces() if (s := getattr(piece, "squeeze", None)))
        assert cost.flops == convolutions + squeezes + subnet.classifier.macs
        assert cost.activation_bytes == 4 * max(piece.peak_elements for piece in subnet.pieces())


def test_smallest_and_largest_bound_every_subnet() -> None:
    """They are the ends that error messages name."""
    for space in SHIPPED:
        many = costs(space, random_genes(space, 2000, np.random.default_rng(0)))
        for field in ("flops", "params", "weight_bytes"):
            low = getattr(count(space, ArchSpec.smallest(space)), field)
            high = getattr(count(space, ArchSpec.largest(space)), field)
            values = getattr(many, field)
            assert low <= values.min() <= values.max() <= high


def test_foreign_architecture_is_refused() -> None:
    """A count of something else would look just as plausible."""
    with pytest.raises(ArchError):
        count(get_space("digits"), ArchSpec.smallest(get_space("ofa-mbv3-w1.0")))
