"""ε and the learning rate are formulas, and the formulas are the paper's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deps.train.schedule import Bend, cosine_lr, epsilon

IMAGENET = {"start": 150 * 625, "ramp_steps": 5 * 625, "steps": 270 * 625, "lr": 2.6}


def test_the_cosine_starts_at_its_rate_and_ends_at_zero():
    """Half-way it has fallen to half."""
    assert cosine_lr(0, steps=100, lr=0.4) == 0.4
    assert cosine_lr(50, steps=100, lr=0.4) == pytest.approx(0.2)
    assert cosine_lr(100, steps=100, lr=0.4) == pytest.approx(0.0, abs=1e-12)


def test_a_warmup_rises_linearly_to_the_cosine():
    """Large batches need it."""
    rates = [cosine_lr(step, steps=1000, lr=1.0, warmup_steps=4) for step in range(6)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8], rel=1e-3)
    assert rates[4:] == pytest.approx([1.0, 1.0], rel=1e-3)


def test_a_bent_cosine_has_so_much_behind_it_at_the_bend_and_ends_at_zero():
    """By hand: a quarter of the cosine is 0.85355; 8 steps to the half, then 2 to the end."""
    late = Bend(8, 0.5)
    rates = [cosine_lr(step, steps=10, lr=1.0, bend=late) for step in (0, 4, 8, 9, 10, 11)]
    assert rates == pytest.approx([1, 0.853553, 0.5, 0.146447, 0, 0], abs=1e-6)


@given(steps=st.integers(2, 400), at=st.floats(0, 1), share=st.floats(0.01, 0.99))
def test_a_bent_cosine_only_falls_and_bends_to_itself(steps, at, share):
    """Whatever the bend; and one that lies on the cosine changes nothing."""
    bend = 1 + int(at * (steps - 2))
    rates = [cosine_lr(step, steps=steps, lr=0.1, bend=Bend(bend, share)) for step in range(steps + 1)]
    assert rates == sorted(rates, reverse=True)
    plain = [cosine_lr(step, steps=steps, lr=0.1) for step in range(steps + 1)]
    unbent = [cosine_lr(step, steps=steps, lr=0.1, bend=Bend(bend, bend / steps)) for step in range(steps + 1)]
    assert unbent == pytest.approx(plain, abs=1e-12)


def test_under_a_bent_cosine_too_the_subnets_rate_rises_linearly():
    """8 steps alone, then a ramp of 4 in the 8 that are left: rates by hand, of the second half of a cosine."""
    bend = {"steps": 16, "lr": 1.0, "bend": Bend(8, 0.75)}
    found = [epsilon(step, start=8, ramp_steps=4, **bend) * cosine_lr(step, **bend) for step in range(8, 12)]
    end = (1 + math.cos(math.pi * (0.75 + 0.25 * 3 / 8))) / 2
    assert found == pytest.approx([end / 4, end / 2, 3 * end / 4, end])


def test_epsilon_starts_near_the_published_value_on_imagenet():
    """About 3e-4 at the first step with subnets, 1 at the end of five epochs."""
    assert epsilon(IMAGENET["start"], **IMAGENET) == pytest.approx(3e-4, rel=0.1)
    assert epsilon(IMAGENET["start"] + IMAGENET["ramp_steps"] - 1, **IMAGENET) == 1.0
    assert epsilon(IMAGENET["start"] - 1, **IMAGENET) == 0.0


@given(start=st.integers(0, 500), ramp=st.integers(2, 300), share=st.floats(0, 1))
def test_the_subnets_rate_rises_linearly_to_the_full_models_rate_at_the_end_of_the_ramp(start, ramp, share):
    """That is what ε is defined by: ε · lr grows by the same amount every iteration."""
    steps, lr = 1000, 0.1
    end = start + ramp - 1
    if end >= steps:
        return
    step = start + int(share * (ramp - 1))
    rate = epsilon(step, start=start, ramp_steps=ramp, steps=steps, lr=lr) * cosine_lr(step, steps=steps, lr=lr)
    expected = (step - start + 1) / ramp * cosine_lr(end, steps=steps, lr=lr)
    assert math.isclose(rate, expected, rel_tol=1e-12)


def test_without_a_ramp_epsilon_is_one_at_once():
    """The ablation without ε-shrinking."""
    assert epsilon(10, start=10, ramp_steps=0, steps=100, lr=0.1) == 1.0


def test_the_shapes_of_the_ramp_meet_at_its_end():
    """A cosine rises slowly, then fast; constant is the ablation without a ramp."""
    at = {"start": 10, "ramp_steps": 8, "steps": 100, "lr": 0.1}
    end = cosine_lr(17, steps=100, lr=0.1)
    for done in (1, 4, 7):
        rate = cosine_lr(9 + done, steps=100, lr=0.1)
        rise = (1 - math.cos(math.pi * done / 8)) / 2
        assert epsilon(9 + done, **at, shape="cosine") == pytest.approx(rise * end / rate)
        assert epsilon(9 + done, **at, shape="constant") == 1.0
    assert epsilon(17, **at, shape="cosine") == epsilon(17, **at) == 1.0
    assert epsilon(9, **at, shape="constant") == 0.0


def test_epsilon_at_chosen_steps_is_the_formula_done_by_hand():
    """4 steps of ramp in 16 from step 8, lr 1: cos at 8, 9, 10, 11 gives 0.5, 0.40245, 0.30866, 0.22221."""
    found = [epsilon(step, start=8, ramp_steps=4, steps=16, lr=1.0) for step in (7, 8, 9, 10, 11, 12)]
    assert found == pytest.approx(
        [0, 0.25 * 0.222215 / 0.5, 0.5 * 0.222215 / 0.402455, 0.75 * 0.222215 / 0.308658, 1, 1], rel=1e-4
    )
