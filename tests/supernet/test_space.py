"""Search spaces: the published figures, the rules of the vocabulary, JSON."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deps.ground.errors import SpaceError
from deps.supernet import ArchSpec, ConvSpec, PoolSpec, SearchSpace, StageSpec, get_space, space_names
from deps.supernet.space import feature_size, round_channels
from strategies import SHIPPED, spaces

CONV = ConvSpec(widths=(8,), kernel=3, activation="relu")
STAGE = StageSpec(widths=(8,), depths=(1, 2), expands=(2, 3))
MEAN = PoolSpec(kind="mean")


def small(**changes) -> SearchSpace:
    parts = {"name": "small", "stem": (CONV,), "stages": (STAGE,), "head": (MEAN,), "resolutions": (8,)}
    return SearchSpace(**{**parts, **changes})


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("ofa-mbv3-w1.0", 7371**5),
        ("ofa-mbv3-w1.2", 7371**5),
        ("ofa-proxyless-w1.0", 7371**5 * 9),
        ("ofa-proxyless-w1.3", 7371**5 * 9),
        # The published 2.46e12 counts three indices for the stem's first width, two of which mean 24 channels.
        ("ofa-resnet50", 2 * 3**5 * 2 * 13**4 * 3**10),
    ],
)
def test_the_published_spaces_have_the_published_number_of_subnets(name, size):
    """7371 = 9² + 9³ + 9⁴ is a stage's kernels and ratios at depth 2, 3 and 4."""
    space = get_space(name)
    assert space.size(resolution=224) == size
    assert space.size() == 25 * size


def test_every_family_has_a_relative_for_small_images():
    """CIFAR images are 32 pixels wide; the early strides become 1, so the last maps are not single pixels."""
    for name in ("cifar-mbv3", "cifar-proxyless", "cifar-resnet50"):
        space = get_space(name)
        assert (space.resolutions, space.num_classes) == ((32,), 10)
    assert set(space_names()) == {space.name for space in SHIPPED}


@pytest.mark.parametrize(
    ("multiplier", "widths"),
    [
        ("1.0", [16, 16, 24, 40, 80, 112, 160, 960, 1280]),
        ("1.2", [24, 24, 32, 48, 96, 136, 192, 1152, 1536]),
    ],
)
def test_mobilenetv3_has_the_published_widths(multiplier, widths):
    space = get_space(f"ofa-mbv3-w{multiplier}")
    specs = [*space.stem, *space.stages, *[spec for spec in space.head if isinstance(spec, ConvSpec)]]
    assert [spec.widths[0] for spec in specs] == widths


@pytest.mark.parametrize(
    ("multiplier", "widths"),
    [
        ("1.0", [32, 16, 24, 40, 80, 96, 192, 320, 1280]),
        ("1.3", [40, 24, 32, 56, 104, 128, 248, 416, 1664]),
    ],
)
def test_proxyless_has_the_published_widths(multiplier, widths):
    space = get_space(f"ofa-proxyless-w{multiplier}")
    specs = [*space.stem, *space.stages, *[spec for spec in space.head if isinstance(spec, ConvSpec)]]
    assert [spec.widths[0] for spec in specs] == widths


def test_resnet50_has_the_published_widths():
    assert get_space("ofa-resnet50").width_choices == (
        (24, 32),
        (40, 48, 64),
        (168, 208, 256),
        (336, 408, 512),
        (664, 816, 1024),
        (1328, 1640, 2048),
    )


@pytest.mark.parametrize(
    ("channels", "rounded"),
    [(1, 8), (8, 8), (11, 16), (12, 16), (17, 16), (18, 24), (20, 24), (25.6, 24), (41.6, 40), (51.2, 48), (960, 960)],
)
def test_channels_round_to_eight_and_never_below_nine_tenths(channels, rounded):
    assert round_channels(channels) == rounded


@given(smaller=st.floats(1, 4000), larger=st.floats(1, 4000))
def test_rounding_keeps_the_order_of_widths(smaller, larger):
    """A smaller ratio must never need more channels than the supernet's largest has."""
    smaller, larger = sorted((smaller, larger))
    assert round_channels(smaller) <= round_channels(larger)


@given(size=st.integers(1, 500), kernel=st.sampled_from((1, 3, 5, 7)), stride=st.sampled_from((1, 2)))
def test_feature_size_is_the_size_after_a_padded_convolution(size, kernel, stride):
    assert feature_size(size, stride) == (size + 2 * (kernel // 2) - kernel) // stride + 1


def test_odd_images_give_the_known_odd_maps():
    sizes = [132]
    while sizes[-1] > 5:
        sizes.append(feature_size(sizes[-1], 2))
    assert sizes == [132, 66, 33, 17, 9, 5]


@given(space=spaces())
def test_json_keeps_a_space(space):
    """A supernet on disk carries its space, so that a user's own space needs no code where it is used."""
    assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


@given(space=spaces())
def test_axes_stand_in_the_order_of_an_architecture(space):
    arch = ArchSpec.largest(space)
    values = (*arch.kernels, *arch.expands, *arch.depths, *arch.widths, arch.resolution)
    assert [axis.choices[-1] for axis in space.axes] == list(values)
    kinds = [axis.kind for axis in space.axes]
    assert kinds == sorted(kinds, key=["kernel", "expand", "depth", "width", "resolution"].index)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: StageSpec(widths=(), depths=(1,), expands=(2,)), "widths of a stage has no choices"),
        (lambda: StageSpec(widths=(16, 8), depths=(1,), expands=(2,)), "expected ascending"),
        (lambda: StageSpec(widths=(8,), depths=(0,), expands=(2,)), "each at least 1"),
        (lambda: StageSpec(widths=(8,), depths=(1,), expands=(2, 2)), "distinct"),
        (lambda: StageSpec(widths=(8,), depths=(1,), expands=(2,), kernels=(4,)), "expected odd sizes"),
        (lambda: StageSpec(widths=(8,), depths=(1,), expands=(2,), stride=3), "stride is 3"),
        (lambda: StageSpec(widths=(8,), depths=(1,), expands=(2,), activation="gelu"), "relu, relu6, hswish"),
        (lambda: StageSpec(block="dense", widths=(8,), depths=(1,), expands=(2,)), "inverted or bottleneck"),
        (
            lambda: StageSpec(block="bottleneck", widths=(8,), depths=(1,), expands=(1,), kernels=(3, 5)),
            "a bottleneck has kernel 3",
        ),
        (lambda: ConvSpec(widths=(8,), kernel=2), "kernel is 2"),
        (lambda: ConvSpec(widths=(8,), is_optional=True), "keeps its input's shape"),
        (lambda: PoolSpec(kind="median"), "expected max or mean"),
        (lambda: small(name=""), "needs a name"),
        (lambda: small(stages=()), "has no stages"),
        (lambda: small(head=()), "exactly one pool"),
        (lambda: small(head=(MEAN, PoolSpec(kind="max"))), "exactly one pool"),
        (lambda: small(head=(MEAN, ConvSpec(widths=(8, 16)))), "exactly one width"),
        (lambda: small(resolutions=()), "resolutions of small has no choices"),
        (lambda: small(norm_momentum=1.5), "norm_momentum is 1.5"),
        (lambda: StageSpec(widths=(8.5,), depths=(1,), expands=(2,)), "expected whole numbers"),
        (lambda: StageSpec(widths=[8], depths=(1,), expands=(2,)), "in a tuple"),
        (lambda: small(num_classes=0), "num_classes is 0"),
        (lambda: small(stem=(STAGE,)), "a stem block is one fixed block"),
        (lambda: small(stem=(ConvSpec(widths=(), is_optional=True),) * 2), "several optional"),
        (lambda: get_space("ofa-mbv4"), "unknown search space 'ofa-mbv4'; known: ofa-mbv3-w1.0"),
    ],
)
def test_an_impossible_space_is_refused_with_what_was_expected(make, expected):
    with pytest.raises(SpaceError, match=re.escape(expected)):
        make()


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.pop("stem"),
        lambda value: value.update(colour="red"),
        lambda value: value.update(stages=7),
        lambda value: value["stages"][0].update(type="Magic"),
        lambda value: value["stages"][0].update(widths="wide"),
        lambda value: value["stages"][0].pop("depths"),
        lambda value: value.update(resolutions=None),
        lambda value: value.update(norm_eps=-1),
        lambda value: value.update(num_classes="ten"),
    ],
)
def test_a_damaged_description_is_a_space_error(damage):
    value = small().to_dict()
    damage(value)
    with pytest.raises(SpaceError):
        SearchSpace.from_dict(value)


def test_a_space_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().num_classes = 3  # type: ignore[misc]
