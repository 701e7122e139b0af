"""Plans: the published totals, and what every plan keeps to."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deps.ground.errors import ArchError
from deps.supernet import ArchSpec, get_space
from deps.supernet.pieces import BottleneckPlan, ConvPlan, InvertedPlan, LinearPlan
from deps.supernet.plan import block_plan, parameter_shapes, plan
from deps.supernet.supernet import is_statistic, supernet_shapes
from strategies import archs, spaces


def totals(name, arch):
    subnet = plan(get_space(name), arch)
    return sum(piece.params for piece in subnet.pieces()), sum(piece.macs for piece in subnet.pieces())


@pytest.mark.parametrize(
    ("name", "tensors", "params", "matrices", "largest", "smallest", "macs_smallest_M", "macs_largest_M"),
    [
        ("ofa-mbv3-w1.0", 475, 7_678_880, 14_120, 7_664_760, 3_410_792, 121.279, 566.171),
        ("ofa-mbv3-w1.2", 475, 10_715_752, 14_120, 10_701_632, 4_602_456, 193.078, 843.101),
        ("ofa-proxyless-w1.0", 446, 5_118_162, 14_826, 5_103_336, 2_500_632, None, None),
        ("ofa-proxyless-w1.3", 446, 7_956_882, 14_826, 7_942_056, 3_718_832, 265.526, 1004.908),
        ("ofa-resnet50", 368, 48_105_992, 0, 48_105_992, 6_539_280, 962.192, 7491.644),
    ],
)
def test_the_published_totals(name, tensors, params, matrices, largest, smallest, macs_smallest_M, macs_largest_M):
    """Counts of the public once-for-all networks at 224 pixels, conv and linear multiply-adds only."""
    space = get_space(name)
    shapes = supernet_shapes(space)
    assert len(shapes) == tensors
    numbers = {key: _product(shape) for key, shape in shapes.items() if not is_statistic(key)}
    assert sum(numbers.values()) == params
    assert sum(count for key, count in numbers.items() if ".matrix_" in key) == matrices
    most, most_macs = totals(name, ArchSpec.largest(space, 224))
    least, least_macs = totals(name, ArchSpec.smallest(space, 224))
    assert (most, least) == (largest, smallest)
    if macs_largest_M is not None:
        assert round(most_macs / 1e6, 3) == macs_largest_M
        assert round(least_macs / 1e6, 3) == macs_smallest_M


def _product(shape):
    count = 1
    for side in shape:
        count *= side
    return count


def test_the_cifar_space_has_the_published_cost():
    """DεpS plots its CIFAR subnets with kernel 7 from 46 to 180 million multiply-adds."""
    space = get_space("cifar-mbv3")
    _, low = totals("cifar-mbv3", ArchSpec.create(space, kernels=7, expands=3, depths=2))
    _, high = totals("cifar-mbv3", ArchSpec.create(space, kernels=7, expands=6, depths=4))
    assert low / 1e6 == pytest.approx(46, abs=1)
    assert high / 1e6 == pytest.approx(180, abs=1)


@pytest.mark.parametrize(
    ("name", "stage", "middles"),
    [
        ("ofa-mbv3-w1.0", 0, {0: [48, 64, 96], 1: [72, 96, 144]}),
        ("ofa-mbv3-w1.0", 1, {0: [72, 96, 144], 1: [120, 160, 240]}),
        ("ofa-mbv3-w1.0", 4, {0: [336, 448, 672], 1: [480, 640, 960]}),
    ],
)
def test_middle_widths_are_the_published_ones(name, stage, middles):
    """The first block of a stage expands the width that comes in, the others the stage's own."""
    space = get_space(name)
    for position, widths in middles.items():
        blocks = [plan(space, ArchSpec.create(space, expands=expand)).stages[stage][position] for expand in (3, 4, 6)]
        assert [block.depthwise.channels_out for block in blocks] == widths


@pytest.mark.parametrize(
    ("name", "stage", "hidden"),
    [
        ("ofa-mbv3-w1.0", 1, ([24, 24, 40], [32, 40, 64])),
        ("ofa-mbv3-w1.0", 3, ([64, 80, 120], [88, 112, 168])),
        ("ofa-mbv3-w1.0", 4, ([88, 112, 168], [120, 160, 240])),
        ("ofa-mbv3-w1.2", 1, ([24, 32, 48], [40, 48, 72])),
        ("ofa-mbv3-w1.2", 3, ([72, 96, 144], [104, 136, 208])),
        ("ofa-mbv3-w1.2", 4, ([104, 136, 208], [144, 192, 288])),
    ],
)
def test_squeeze_excite_is_as_narrow_as_published(name, stage, hidden):
    space = get_space(name)
    for position, widths in enumerate(hidden):
        plans = [plan(space, ArchSpec.create(space, expands=expand)).stages[stage][position] for expand in (3, 4, 6)]
        assert [block.squeeze.hidden for block in plans] == widths


@pytest.mark.parametrize(
    ("stage", "middles"),
    [
        (0, ([32, 40, 56], [40, 56, 72], [48, 64, 88])),
        (1, ([64, 88, 120], [80, 104, 144], [104, 128, 176])),
        (2, ([136, 168, 232], [160, 208, 288], [208, 256, 360])),
        (3, ([264, 336, 464], [328, 408, 576], [408, 512, 720])),
    ],
)
def test_bottleneck_widths_are_the_published_ones(stage, middles):
    space = get_space("ofa-resnet50")
    for index, widths in enumerate(middles):
        plans = [
            plan(space, ArchSpec.from_ofa(space, e=expand, w=index)).stages[stage][0] for expand in (0.2, 0.25, 0.35)
        ]
        assert [block.spatial.channels_out for block in plans] == widths


def test_shortcuts_are_where_the_specification_has_them():
    """Identity in every block but the first of a stage; the static block adds its input in MobileNetV3 only."""
    for name, static in (("ofa-mbv3-w1.0", True), ("ofa-proxyless-w1.3", False)):
        subnet = plan(get_space(name), ArchSpec.largest(get_space(name)))
        assert subnet.stem[1].has_shortcut is static
        for stage in subnet.stages:
            assert [block.has_shortcut for block in stage] == [False] + [True] * (len(stage) - 1)
    resnet = get_space("ofa-resnet50")
    for stage in plan(resnet, ArchSpec.largest(resnet)).stages:
        assert [block.shortcut is not None for block in stage] == [True] + [False] * (len(stage) - 1)


@given(data=st.data(), space=spaces())
def test_every_subnet_fits_into_the_supernet(data, space):
    """Each tensor of a subnet has a name in the supernet and is at most as large there, whatever was chosen."""
    arch = data.draw(archs(space))
    whole = supernet_shapes(space)
    for name, shape in parameter_shapes(plan(space, arch)).items():
        assert len(shape) == len(whole[name])
        assert all(part <= full for part, full in zip(shape, whole[name], strict=True)), name


@given(data=st.data(), space=spaces())
def test_a_plan_is_a_chain(data, space):
    """What one piece gives is what the next one takes, in channels and in size."""
    arch = data.draw(archs(space))
    channels, size = space.in_channels, arch.resolution
    for piece in plan(space, arch).pieces():
        if isinstance(piece, LinearPlan):
            assert piece.features_in == channels * size**2
            assert piece.features_out == space.num_classes
        elif isinstance(piece, (InvertedPlan, BottleneckPlan)):
            convs = [conv for conv in piece.convolutions() if conv is not getattr(piece, "shortcut", None)]
            assert (convs[0].channels_in, convs[0].size_in) == (channels, size)
            for before, after in itertools.pairwise(convs):
                assert (before.channels_out, before.size_out) == (after.channels_in, after.size_in)
            channels, size = convs[-1].channels_out, convs[-1].size_out
        elif isinstance(piece, ConvPlan):
            assert (piece.channels_in, piece.size_in) == (channels, size)
            channels, size = piece.channels_out, piece.size_out
        else:
            assert (piece.channels, piece.size_in) == (channels, size)
            size = piece.size_out


@given(data=st.data(), space=spaces())
def test_larger_choices_never_cost_less(data, space):
    arch = data.draw(archs(space))
    costs = [
        sum(piece.macs for piece in plan(space, other).pieces())
        for other in (ArchSpec.smallest(space, arch.resolution), arch, ArchSpec.largest(space, arch.resolution))
    ]
    assert costs == sorted(costs)


@given(data=st.data(), space=spaces())
def test_latency_keys_tell_different_pieces_apart(data, space):
    """A latency table has one entry a key, so pieces of one key must be the same work."""
    work = {}
    for _ in range(2):
        for piece in plan(space, data.draw(archs(space))).pieces():
            cost = (type(piece).__name__, piece.macs, piece.params, piece.peak_elements)
            assert work.setdefault(piece.key, cost) == cost


def test_a_block_is_planned_alone_for_measuring():
    stage = get_space("ofa-mbv3-w1.0").stages[1]
    block = block_plan(stage, name="block", channels_in=24, channels_out=40, kernel=5, expand=4, stride=2, size=56)
    assert block.key == "inverted 24>96>40 k5 s2 relu se24 @56"
    assert block.macs == 56**2 * 24 * 96 + 28**2 * (96 * 25 + 96 * 40) + 2 * 96 * 24


def test_an_architecture_of_another_space_has_no_plan():
    with pytest.raises(ArchError, match=re.escape("resolution is 224")):
        plan(get_space("cifar-mbv3"), ArchSpec.largest(get_space("ofa-mbv3-w1.0")))
