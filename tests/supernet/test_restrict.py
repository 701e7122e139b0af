"""A space with fewer choices is an ordinary space, and says in its name what it lacks."""

from __future__ import annotations

import pytest

from deps.ground.errors import SpaceError
from deps.supernet import ArchSpec, SearchSpace, Supernet, get_space
from deps.supernet.restrict import restricted

MBV3, RESNET = get_space("ofa-mbv3-w1.0"), get_space("ofa-resnet50")


def test_the_kernel_can_be_fixed_as_the_published_recipes_fix_it():
    """ks_list 7, at 224 pixels."""
    space = restricted(MBV3, kernels=(7,), resolutions=(224,))
    assert space.name == "ofa-mbv3-w1.0-k7-r224"
    assert {stage.kernels for stage in space.stages} == {(7,)}
    assert space.resolutions == (224,)
    assert space.size(224) == (3**2 + 3**3 + 3**4) ** 5
    assert ArchSpec.largest(space) == ArchSpec.largest(MBV3)


def test_nothing_asked_is_nothing_changed():
    """Naming all choices is no restriction either."""
    assert restricted(MBV3) == MBV3
    assert restricted(MBV3, kernels=(3, 5, 7), expands=(3, 4, 6), resolutions=MBV3.resolutions) == MBV3


def test_a_stage_with_one_choice_keeps_it():
    """ProxylessNAS' last stage has one block; the others may lose a choice."""
    space = restricted(get_space("ofa-proxyless-w1.3"), depths=(2, 3))
    assert [stage.depths for stage in space.stages] == [(2, 3)] * 5 + [(1,)]


@pytest.mark.parametrize(
    ("space", "choices", "told"),
    [
        (MBV3, {"kernels": (9,)}, "kernels of 9 is a choice of no stage"),
        (RESNET, {"kernels": (7,)}, "known: 3"),
        (RESNET, {"depths": (2, 3)}, "leave stage 3 of ofa-resnet50 without a choice; it has 4, 5, 6"),
        (MBV3, {"resolutions": (0,)}, "each at least 1"),
    ],
)
def test_impossible_choices_are_refused(space: SearchSpace, choices: dict[str, tuple[int, ...]], told: str):
    """Nothing a user set is ignored in silence."""
    with pytest.raises(SpaceError, match=told):
        restricted(space, **choices)


def test_a_restricted_space_is_stored_with_its_supernet(tmp_path):
    """Profiling and extraction read the space from there."""
    space = restricted(get_space("digits"), kernels=(3,), depths=(2,))
    supernet = Supernet.create(space)
    assert not any(".matrix_" in name for name in supernet.tensors)
    supernet.save(tmp_path)
    assert Supernet.load(tmp_path).space == space
