"""What is held out is stratified, drawn once, and leaves every class something."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deps.ground.errors import DataError
from deps.train.datasets.parts import hold_out


@given(counts=st.lists(st.integers(2, 40), min_size=1, max_size=12), data=st.data())
def test_parts_are_whole_disjoint_and_stratified(counts: list[int], data: st.DataObject):
    """Every class keeps one image and gives one; shares differ by one image where there are enough."""
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(0).permutation(labels)
    images = data.draw(st.integers(len(counts), len(labels) - len(counts)))
    kept, held = hold_out(labels, images, seed=0, name="these")
    assert len(held) == images
    assert sorted([*kept, *held]) == list(range(len(labels)))
    given_ = np.bincount(labels[held], minlength=len(counts))
    assert given_.min() >= 1
    assert np.bincount(labels[kept], minlength=len(counts)).min() >= 1
    if min(counts) == max(counts):
        assert given_.max() - given_.min() <= 1


def test_a_tenth_is_held_out_unless_told_otherwise():
    """And the same tenth each time."""
    labels = np.tile(np.arange(5), 40)
    kept, held = hold_out(labels, 0, seed=0, name="these")
    assert len(held) == 20
    assert np.bincount(labels[held]).tolist() == [4] * 5
    assert np.array_equal(held, hold_out(labels, 0, seed=0, name="these")[1])
    assert not np.array_equal(held, hold_out(labels, 0, seed=1, name="these")[1])
    assert not set(kept) & set(held)


@pytest.mark.parametrize(("counts", "images"), [([1, 5], 0), ([5, 5], 1), ([5, 5], 9)])
def test_a_class_that_has_nothing_to_give_is_said(counts: list[int], images: int):
    """Before the first epoch."""
    with pytest.raises(DataError, match="--validation-images"):
        hold_out(np.repeat(np.arange(2), counts), images, seed=0, name="these")
