"""Gathered costs equal what the plans say, for every subnet of every space, shipped or invented."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.ground.errors import ArchError, SpaceError
from deps.profile.additive import CHUNK, evaluate, slots, tabulate
from deps.supernet import ArchSpec, SearchSpace, get_space
from deps.supernet.pieces import Piece
from deps.supernet.plan import plan
from deps.supernet.sampling import columns, decode, encode, random_genes
from strategies import SHIPPED, archs, spaces


def odd_cost(piece: Piece) -> int:
    """Return a number that differs from piece to piece, so that any mix-up shows."""
    return int.from_bytes(piece.key.encode()[-6:], "big") % 999_983


@given(data=st.data(), space=spaces())
@settings(max_examples=60, deadline=None)
def test_gathered_costs_are_those_of_the_pieces(data: st.DataObject, space: SearchSpace) -> None:
    """Search trusts the gathered numbers, and ships what the plan says."""
    chosen = data.draw(st.lists(archs(space), min_size=1, max_size=5))
    total, peak = evaluate([tabulate(space, odd_cost), tabulate(space, odd_cost, reduce="max")], encode(space, chosen))
    pieces = [[odd_cost(piece) for piece in plan(space, arch).pieces()] for arch in chosen]
    assert total.tolist() == [sum(costs) for costs in pieces]
    assert peak.tolist() == [max(costs) for costs in pieces]


def test_rows_beyond_one_chunk_are_counted_alike() -> None:
    """A million rows pass in chunks; the seam between two must not show."""
    space = get_space("digits")
    genes = random_genes(space, CHUNK + 3, np.random.default_rng(0))
    table = tabulate(space, odd_cost)
    together = table(genes)
    assert together[:3].tolist() == table(genes[:3]).tolist()
    assert together[CHUNK - 1 :].tolist() == table(genes[CHUNK - 1 :]).tolist()
    assert together.dtype == np.int64


def test_no_rows_cost_nothing() -> None:
    """A search that filters everything away must not crash."""
    space = get_space("digits")
    assert tabulate(space, odd_cost)(random_genes(space, 0, np.random.default_rng(0))).shape == (0,)


@pytest.mark.parametrize("space", SHIPPED, ids=lambda space: space.name)
def test_slots_stand_in_the_order_of_the_flow(space: SearchSpace) -> None:
    """The slots are the chain of the deepest subnet, and left-out ones are known to be so."""
    deepest = ArchSpec.largest(space)
    assert [slot.name for slot in slots(space)] == [piece.name for piece in plan(space, deepest).pieces()]
    smallest = encode(space, [ArchSpec.smallest(space)])
    there = [slot.name for slot in slots(space) if slot.numbers(smallest)[0] > 0]
    assert there == [piece.name for piece in plan(space, ArchSpec.smallest(space)).pieces()]


@given(data=st.data(), space=spaces())
@settings(max_examples=60, deadline=None)
def test_linear_form_gives_the_cost_of_every_subnet(data: st.DataObject, space: SearchSpace) -> None:
    """An exact solver sees the space through these coefficients alone."""
    arch = data.draw(archs(space))
    form = tabulate(space, odd_cost).linear_form(arch.resolution, arch.widths)
    (row,), where = encode(space, [arch]), columns(space)
    total = form.constant
    for block, (stage, index) in enumerate(space.blocks):
        if index < arch.depths[space.stage_depth_index(stage)]:
            total += form.blocks[block][row[where.kernels.start + block], row[where.expands.start + block]]
    if space.has_elastic_stem and arch.depths[0] == space.depth_choices[0][1]:
        total += form.optional_stem
    assert total == sum(odd_cost(piece) for piece in plan(space, arch).pieces())


def test_linear_form_refuses_what_is_not_linear() -> None:
    """A peak is no sum; choices outside the space would silently give another subnet's numbers."""
    space = get_space("ofa-resnet50")
    table = tabulate(space, odd_cost)
    with pytest.raises(SpaceError, match="maximum over pieces has no linear form"):
        tabulate(space, odd_cost, reduce="max").linear_form(128)
    with pytest.raises(ArchError, match=r"widths has 0 entries; ofa-resnet50 expects 6"):
        table.linear_form(128)
    widths = [choices[0] for choices in space.width_choices]
    with pytest.raises(ArchError, match=r"resolution is 129; choices in ofa-resnet50: 128, 132"):
        table.linear_form(129, widths)
    with pytest.raises(ArchError, match=r"widths\[5\] is 7; choices"):
        table.linear_form(128, [*widths[:5], 7])


def test_floating_point_costs_keep_infinity_to_themselves() -> None:
    """An unmeasured piece makes its own subnets infinitely slow, and no others."""
    space = get_space("digits")
    genes = random_genes(space, 300, np.random.default_rng(0))
    banned = next(p for p in slots(space)[2].pieces if "k5" in p.key).key
    seconds = tabulate(space, lambda piece: np.inf if piece.key == banned else 1.0, dtype=np.float64)(genes)
    has_it = [any(p.key == banned for p in plan(space, arch).pieces()) for arch in decode(space, genes)]
    assert 0 < sum(has_it) < 300
    assert np.isinf(seconds).tolist() == has_it
