"""Channel sorting: the largest subnet computes the same, the important channels come first, rings stay sets."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.supernet import ArchSpec, get_space, slice_weights
from deps.supernet.pieces import InvertedPlan
from deps.supernet.plan import plan
from deps.supernet.sorting import sorted_within_rings
from deps.supernet.supernet import Supernet, is_statistic
from strategies import SHIPPED, invented_spaces, lived_in

DIGITS = get_space("digits")


def importance(tensors, name):
    return tensors[name].abs().sum((0, 2, 3))


@given(space=invented_spaces(), rings=st.integers(0, 3))
def test_the_largest_subnets_function_is_unchanged(space, rings):
    supernet = lived_in(space).to(dtype=torch.float64)
    arch = ArchSpec.largest(space)
    x = torch.randn(2, space.in_channels, arch.resolution, arch.resolution, dtype=torch.float64)
    before = supernet(x, arch)
    supernet.sort_channels(rings=rings)
    torch.testing.assert_close(supernet(x, arch), before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("space", SHIPPED, ids=lambda space: space.name)
def test_the_largest_subnets_function_is_unchanged_in_shipped_spaces(space):
    supernet = lived_in(space).to(dtype=torch.float64)
    arch = ArchSpec.largest(space, space.resolutions[0])
    x = torch.randn(1, space.in_channels, arch.resolution, arch.resolution, dtype=torch.float64)
    before, tensors = supernet(x, arch), {name: tensor.clone() for name, tensor in supernet.tensors.items()}
    supernet.sort_channels()
    torch.testing.assert_close(supernet(x, arch), before, rtol=1e-9, atol=1e-9)
    moved = [name for name, tensor in tensors.items() if not torch.equal(tensor, supernet.tensors[name])]
    assert len(moved) > 7 * len(space.blocks)


@given(space=invented_spaces())
@settings(max_examples=20)
def test_sorting_is_done_after_one_time(space):
    """A sorted supernet is sorted: doing it again moves nothing (equal importances keep their order)."""
    supernet = lived_in(space)
    supernet.sort_channels()
    before = {name: tensor.clone() for name, tensor in supernet.tensors.items()}
    supernet.sort_channels()
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.tensors.items())


def test_middle_channels_and_squeeze_units_descend_in_importance():
    supernet = lived_in(DIGITS)
    supernet.sort_channels()
    squeezes = 0
    for stage in plan(DIGITS, ArchSpec.largest(DIGITS)).stages:
        for block in stage:
            middle = importance(supernet.tensors, f"{block.project.name}.conv.weight")
            assert (middle.diff() <= 0).all()
            if block.squeeze:
                hidden = importance(supernet.tensors, f"{block.squeeze.name}.expand.weight")
                assert (hidden.diff() <= 0).all()
                squeezes += 1
    assert squeezes > 0


def test_bottlenecks_are_sorted_by_the_layer_that_follows():
    space = get_space("cifar-resnet50")
    supernet = lived_in(space)
    supernet.sort_channels()
    for stage in plan(space, ArchSpec.largest(space)).stages:
        for block in stage:
            for after in (block.restore, block.spatial):
                assert (importance(supernet.tensors, f"{after.name}.conv.weight").diff() <= 0).all()


@given(
    # Eighths survive the addition of 1e5, unlike the smallest floats; the reference's own order is coarse there.
    values=st.lists(st.integers(0, 400).map(lambda eighths: eighths / 8), min_size=6, max_size=24),
    rings=st.integers(0, 3),
    data=st.data(),
)
def test_rings_stay_sets_and_are_sorted_within(values, rings, data):
    """The reference puts rings behind by adding multiples of -1e5; the order must be that of such offsets."""
    scores = torch.tensor(values, dtype=torch.float64)
    bounds = data.draw(st.lists(st.integers(1, len(values) - 1), min_size=3, max_size=3, unique=True).map(sorted))
    supported = [*bounds, len(values)]
    order = sorted_within_rings(scores, supported, rings)

    shifted = scores.clone()
    right, offset = len(values), -1e5 * len(supported)
    for left in [len(values), *bounds[::-1]][: rings + 1]:
        shifted[left:right] += offset
        offset += 1e5
        right = left
    assert torch.equal(scores[order], scores[torch.argsort(shifted, descending=True, stable=True)])
    assert sorted(order.tolist()) == list(range(len(values)))
    for start, end in itertools.pairwise([0, *bounds[len(bounds) - min(rings, 3) :], len(values)]):
        assert set(order[start:end].tolist()) == set(range(start, end))


@pytest.mark.parametrize(("rings", "kept"), [(0, []), (1, [3]), (2, [2, 3])])
def test_a_ring_keeps_the_function_of_the_width_it_guards(rings, kept):
    """Once ratios 4 and 3 are trained, sorting for ratio 2 must not disturb them: that takes one ring."""
    supernet = lived_in(DIGITS).to(dtype=torch.float64)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    before = {e: supernet(x, ArchSpec.create(DIGITS, expands=e)) for e in (2, 3, 4)}
    supernet.sort_channels(rings=rings)
    unchanged = [
        e for e in (2, 3, 4) if torch.allclose(supernet(x, ArchSpec.create(DIGITS, expands=e)), before[e], rtol=1e-9)
    ]
    assert unchanged == [*kept, 4]


def test_companions_are_sorted_alike():
    """A momentum buffer belongs to its weight; left behind, it would push the wrong channels in the next step."""
    supernet = lived_in(DIGITS)
    momentum = {name: 3 * tensor for name, tensor in supernet.parameters.items() if not name.startswith("classifier")}
    before = {name: tensor.clone() for name, tensor in momentum.items()}
    supernet.sort_channels(momentum)
    assert all(torch.equal(tensor, 3 * supernet.tensors[name]) for name, tensor in momentum.items())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in momentum.items())


def test_sorting_is_in_place():
    """The optimizer holds these very tensors."""
    supernet = lived_in(DIGITS)
    pointers = {name: tensor.data_ptr() for name, tensor in supernet.tensors.items()}
    supernet.sort_channels()
    assert {name: tensor.data_ptr() for name, tensor in supernet.tensors.items()} == pointers


def test_narrow_subnets_keep_the_important_channels():
    """The point of it all: what a narrow subnet's projections keep weighs more than before."""
    supernet = lived_in(DIGITS)
    arch = ArchSpec.create(DIGITS, expands=2)

    def kept(supernet: Supernet) -> float:
        weights = slice_weights(DIGITS, supernet.tensors, arch)
        return sum(
            float(weight.abs().sum())
            for name, weight in weights.items()
            if name.startswith("stages") and name.endswith("project.conv.weight")
        )

    before = kept(supernet)
    supernet.sort_channels()
    assert kept(supernet) > 1.02 * before


def test_every_tensor_of_a_middle_channel_moves_with_it():
    """Mark one channel in every tensor that has it; the marks must meet again after sorting."""
    supernet = lived_in(DIGITS)
    block = plan(DIGITS, ArchSpec.largest(DIGITS)).stages[1][0]
    assert isinstance(block, InvertedPlan)
    expand, depthwise, project, squeeze = (
        part.name for part in (block.expand, block.depthwise, block.project, block.squeeze)
    )
    channel, mark = 5, 99.0
    places = [(f"{name}.conv.weight", 0) for name in (expand, depthwise)]
    places += [
        (f"{name}.norm.{part}", 0)
        for name in (expand, depthwise)
        for part in ("weight", "bias", "running_mean", "running_var")
    ]
    places += [(f"{squeeze}.expand.weight", 0), (f"{squeeze}.expand.bias", 0), (f"{squeeze}.reduce.weight", 1)]
    places += [(f"{project}.conv.weight", 1)]
    for name, dim in places:
        supernet.tensors[name].select(dim, channel).fill_(mark)
    supernet.sort_channels()
    for name, dim in places:
        # Its projection is by far the heaviest, so the channel is the first now.
        assert (supernet.tensors[name].select(dim, 0) == mark).all(), name
        assert is_statistic(name) or (supernet.tensors[name].select(dim, channel) != mark).any()
