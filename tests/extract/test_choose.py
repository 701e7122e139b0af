"""The choice among measured subnets: loss decides where top-1 cannot, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deps.extract.choose import choose, standard_error

FIELDS = st.integers(1, 50_000).flatmap(
    lambda images: st.tuples(
        st.just(images),
        st.lists(st.tuples(st.integers(0, images), st.floats(0, 10)), min_size=1, max_size=30),
    )
)
"""How many images, then right answers and loss of each subnet."""


@given(FIELDS)
def test_the_chosen_has_the_lowest_loss_of_those_within_one_standard_error(field):
    """One comparison of any two subnets decides: who is further off than noise loses, whatever its loss."""
    images, subnets = field
    top1 = np.array([right / images for right, _ in subnets])
    loss = np.array([loss for _, loss in subnets])
    chosen, error, alike = choose(top1, loss, images)
    assert error == standard_error(top1.max(), images) > 0
    assert chosen in alike
    assert int(np.argmax(top1)) in alike
    for other in range(len(top1)):
        is_alike = top1[other] >= top1.max() - error - 1e-9
        assert (other in alike) == is_alike
        if is_alike:
            assert (loss[chosen], -top1[chosen]) <= (loss[other], -top1[other])


@given(FIELDS, st.randoms(use_true_random=False))
def test_the_order_of_the_subnets_does_not_matter(field, random):
    """But among those that are equal in both numbers."""
    images, subnets = field
    shuffled = list(subnets)
    random.shuffle(shuffled)
    answers = []
    for order in (subnets, shuffled):
        right, loss = np.array(order, np.float64).T
        answers.append(order[choose(right / images, loss, images).chosen])
    assert answers[0] == answers[1]


def test_with_many_images_accuracy_decides_alone():
    """The standard error shrinks with the images, and with it what loss may decide."""
    top1, loss = np.array([0.980, 0.973]), np.array([0.12, 0.08])
    assert choose(top1, loss, images=300).chosen == 1
    assert choose(top1, loss, images=10_000).chosen == 0


@pytest.mark.parametrize("top1", [0.0, 1.0])
def test_an_error_is_never_nothing(top1):
    """Being right on all of 100 images does not prove being right always: one image more may be wrong."""
    assert standard_error(top1, 100) == pytest.approx(0.01)
