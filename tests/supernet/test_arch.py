"""Architectures: canonical, validated, and readable in three notations."""

from __future__ import annotations

import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deps.ground.errors import ArchError
from deps.supernet import ArchSpec, get_space
from strategies import SHIPPED, archs, spaces

MBV3 = get_space("ofa-mbv3-w1.0")
PROXYLESS = get_space("ofa-proxyless-w1.3")
RESNET = get_space("ofa-resnet50")


@given(data=st.data(), space=spaces())
def test_every_notation_round_trips(data, space):
    arch = data.draw(archs(space))
    assert ArchSpec.from_dict(space, json.loads(json.dumps(arch.to_dict()))) == arch
    lists = arch.to_ofa(space)
    resolution = lists.pop("r")
    assert ArchSpec.from_ofa(space, **lists, resolution=resolution) == arch
    assert ArchSpec.parse(space, json.dumps({**lists, "r": resolution})) == arch
    assert ArchSpec.parse(space, json.dumps(arch.to_dict())) == arch
    assert pickle.loads(pickle.dumps(arch)) == arch


@given(data=st.data(), space=spaces())
def test_equal_subnets_compare_equal(data, space):
    """What a left-out block would have been must not make two names for one subnet."""
    arch = data.draw(archs(space))
    noisy = arch.to_dict()
    for entries, choices in (("kernels", (1, 3, 5, 7)), ("expands", (0.5, 3, 9))):
        noisy[entries] = [entry or data.draw(st.sampled_from(choices)) for entry in noisy[entries]]
    again = ArchSpec.from_dict(space, noisy)
    assert again == arch
    assert hash(again) == hash(arch)


@given(data=st.data(), space=spaces())
def test_an_architecture_belongs_to_its_space(data, space):
    arch = data.draw(archs(space))
    assert arch.check(space) is arch


@pytest.mark.parametrize("space", SHIPPED, ids=lambda space: space.name)
def test_the_extremes_are_the_first_and_last_choices(space):
    smallest, largest = ArchSpec.smallest(space), ArchSpec.largest(space)
    for axis, low, high in zip(
        space.axes,
        (*smallest.kernels, *smallest.expands, *smallest.depths, *smallest.widths, smallest.resolution),
        (*largest.kernels, *largest.expands, *largest.depths, *largest.widths, largest.resolution),
        strict=True,
    ):
        assert high == axis.choices[-1]
        assert low in (axis.choices[0], 0)


@pytest.mark.parametrize(
    ("space", "choices", "expected"),
    [
        (MBV3, {"e": 5}, "expands[0] is 5; choices in ofa-mbv3-w1.0: 3, 4, 6"),
        (MBV3, {"e": [6] * 19 + [8]}, "expands[19] is 8; choices in ofa-mbv3-w1.0: 3, 4, 6"),
        (MBV3, {"ks": 9}, "kernels[0] is 9; choices in ofa-mbv3-w1.0: 3, 5, 7"),
        (MBV3, {"d": 9}, "depths[0] is 9; choices in ofa-mbv3-w1.0: 2, 3, 4"),
        (MBV3, {"d": [2, 3, 4, 1, 2]}, "depths[3] is 1; choices in ofa-mbv3-w1.0: 2, 3, 4"),
        (MBV3, {"ks": [7] * 19}, "kernels has 19 entries; ofa-mbv3-w1.0 expects 20"),
        (MBV3, {"d": [2, 3]}, "depths has 2 entries; ofa-mbv3-w1.0 expects 5"),
        (MBV3, {"w": [1]}, "widths has 1 entries; ofa-mbv3-w1.0 expects 0"),
        (MBV3, {"resolution": 225}, "resolution is 225; choices in ofa-mbv3-w1.0: 128, 132"),
        (MBV3, {"ks": "7"}, "kernels is '7'; expected a number or a list of 20 numbers"),
        (MBV3, {"ks": True}, "kernels is True; expected a number"),
        (MBV3, {"ks": {"a": 1}}, "expected a number or a list"),
        (MBV3, {"e": [float("nan")] * 20}, "expands[0] is nan; choices"),
        (MBV3, {"e": [None] * 20}, "expands[0] is None; choices"),
        (MBV3, {"e": [[6]] * 20}, "expands[0] is [6]; choices"),
        (PROXYLESS, {"d": [2, 2, 2, 2, 2]}, "depths has 5 entries; ofa-proxyless-w1.3 expects 6"),
        (RESNET, {"d": [1, 0, 0, 0, 0]}, "d[0] is 1; choices in ofa-resnet50: 0, 2"),
        (RESNET, {"d": [0, 0, 3, 0, 0]}, "d[2] is 3; choices in ofa-resnet50: 0, 1, 2"),
        (RESNET, {"d": [0, 0]}, "d has 2 entries; ofa-resnet50 expects 5"),
        (RESNET, {"w": 3}, "w[0] is 3; choices in ofa-resnet50: 0, 1, 2"),
        (RESNET, {"w": [0, 0, 0, 0, 0, 208]}, "w[5] is 208; choices in ofa-resnet50: 0, 1, 2"),
        (RESNET, {"w": [-1] * 6}, "w[0] is -1; choices"),
        (RESNET, {"w": ["0"] * 6}, "w[0] is '0'; choices"),
        (RESNET, {"e": 0.3}, "expands[0] is 0.3; choices in ofa-resnet50: 0.2, 0.25, 0.35"),
        (RESNET, {"ks": 5}, "kernels[0] is 5; choices in ofa-resnet50: 3"),
    ],
)
def test_an_impossible_choice_is_refused_with_the_choices(space, choices, expected):
    """The public code clips e = 5 or d = 9 in silence, and measures another subnet than was asked for."""
    with pytest.raises(ArchError, match=re.escape(expected)):
        ArchSpec.from_ofa(space, **choices)


def test_a_scalar_stands_for_every_position_and_none_for_the_largest():
    arch = ArchSpec.from_ofa(MBV3, ks=3, d=2)
    assert arch.kernels == (3, 3, 0, 0) * 5
    assert arch.expands == (6, 6, 0, 0) * 5
    assert (arch.depths, arch.widths, arch.resolution) == ((2,) * 5, (), 224)


def test_numbers_become_the_choices_of_the_space():
    """JSON and arrays bring 3.0 and numpy's integers; an architecture holds the same numbers whatever was written."""
    arch = ArchSpec.from_ofa(MBV3, ks=np.array([3] * 20), e=[4.0] * 20, d=np.int64(3), resolution=np.int32(160))
    assert arch == ArchSpec.from_ofa(MBV3, ks=3, e=4, d=3, resolution=160)
    assert {type(entry) for entry in (*arch.kernels, *arch.expands, *arch.depths, arch.resolution)} == {int}


def test_the_last_depth_of_proxyless_is_one_whatever_is_written():
    """Its sixth stage has one block, and published configurations write anything there."""
    for last in (1, 2, 4):
        assert ArchSpec.from_ofa(PROXYLESS, d=[2, 3, 4, 2, 3, last]).depths == (2, 3, 4, 2, 3, 1)
    assert ArchSpec.from_ofa(PROXYLESS, d=2).depths == (2, 2, 2, 2, 2, 1)


def test_resnet_lists_count_beyond_the_smallest_and_index_the_multipliers():
    arch = ArchSpec.from_ofa(RESNET, e=0.2, d=[2, 0, 1, 2, 0], w=[0, 1, 2, 0, 1, 2])
    assert arch.depths == (3, 2, 3, 6, 2)
    assert arch.widths == (24, 48, 256, 336, 816, 2048)
    assert sum(kernel > 0 for kernel in arch.kernels) == 2 + 3 + 6 + 2
    lists = arch.to_ofa(RESNET)
    assert (lists["d"], lists["w"], lists["ks"]) == ([2, 0, 1, 2, 0], [0, 1, 2, 0, 1, 2], None)


def test_two_indices_of_the_resnet_stem_mean_one_width():
    """0.65 and 0.8 both round to 24 channels, so these are one subnet and compare equal."""
    assert ArchSpec.from_ofa(RESNET, w=[0, 2, 2, 2, 2, 2]) == ArchSpec.from_ofa(RESNET, w=[1, 2, 2, 2, 2, 2])
    assert ArchSpec.from_ofa(RESNET, w=0) == ArchSpec.create(RESNET, widths=[24, 40, 168, 336, 664, 1328])


def test_words_and_json_are_parsed():
    assert ArchSpec.parse(MBV3, "largest") == ArchSpec.largest(MBV3)
    assert ArchSpec.parse(MBV3, "smallest") == ArchSpec.smallest(MBV3)
    assert ArchSpec.parse(MBV3, '{"ks": 3, "e": 4, "d": 2, "r": 128}') == ArchSpec.from_ofa(
        MBV3, ks=3, e=4, d=2, resolution=128
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("large", "write largest, smallest, or JSON"),
        ("[3, 5]", "expected a JSON object"),
        ('{"kernel": 3}', "unknown fields ['kernel']"),
        ('{"ks": 3, "kernels": 3}', "unknown fields ['kernels']"),
        ('{"d": "two"}', "depths is 'two'"),
    ],
)
def test_text_that_is_no_architecture_is_refused(text, expected):
    with pytest.raises(ArchError, match=re.escape(expected)):
        ArchSpec.parse(MBV3, text)


@pytest.mark.parametrize(
    "value", [{}, [], {"kernels": 3}, {**ArchSpec.largest(MBV3).to_dict(), "depths": None}, None, "largest"]
)
def test_a_damaged_dictionary_is_refused(value):
    with pytest.raises(ArchError):
        ArchSpec.from_dict(MBV3, value)


def test_an_architecture_of_another_space_or_not_canonical_is_refused():
    with pytest.raises(ArchError, match=r"in ofa-mbv3-w1\.0"):
        ArchSpec.largest(RESNET).check(MBV3)
    smallest = ArchSpec.smallest(MBV3)
    by_hand = ArchSpec((3,) * 20, smallest.expands, smallest.depths, (), 128)
    with pytest.raises(ArchError, match="not canonical"):
        by_hand.check(MBV3)


def test_one_line_tells_the_architecture():
    arch = ArchSpec.from_ofa(RESNET, e=0.25, d=[2, 0, 0, 0, 0], w=2, resolution=160)
    blocks = "3x0.25 3x0.25 - - " * 2 + "3x0.25 3x0.25 3x0.25 3x0.25 - - 3x0.25 3x0.25 - -"
    assert arch.to_text() == f"k×e [{blocks}] d [3, 2, 2, 4, 2] w [32, 64, 256, 512, 1024, 2048] 160 px"
