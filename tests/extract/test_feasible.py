"""A budget that no subnet meets says which does come near, and what would be needed."""

from __future__ import annotations

import math

import pytest

from deps.extract.budget import Budget, bounds_of
from deps.extract.feasible import check_feasible, fits_all
from deps.ground.errors import BudgetError
from deps.profile.flops import count


def test_the_smallest_subnet_is_named_when_none_fits(digits, costs, smallest, rng):
    """The user must learn what would be enough."""
    with pytest.raises(BudgetError) as caught:
        check_feasible(digits, bounds_of(Budget(max_flops=100_000), costs, "cpu"), rng=rng)
    least = count(digits, smallest).flops
    enough = math.ceil(least / 1e3)
    assert str(caught.value) == (
        f"no subnet of digits meets 100k FLOPs (smallest: {least / 1e3:.0f}k FLOPs); raise --flops to {enough}k or "
        f"more; the cheapest needs {least / 1e3:.0f}k FLOPs: {smallest.to_text()}"
    )


def test_what_is_said_to_be_enough_is_enough(digits, costs, rng):
    """A number rounded down would send the user round in a circle."""
    for axis in ("flops", "params", "size", "memory"):
        with pytest.raises(BudgetError) as caught:
            check_feasible(
                digits, bounds_of(Budget.parse({axis: "1kB" if axis in "size memory" else "1k"}), costs, "cpu"), rng=rng
            )
        enough = str(caught.value).partition(f"raise --{axis} to ")[2].partition(" or more")[0]
        check_feasible(digits, bounds_of(Budget.parse({axis: enough}), costs, "cpu"), rng=rng)


def test_only_the_axis_that_is_too_tight_is_named(digits, costs, rng):
    """Raising another bound would not help."""
    budget = Budget(max_flops=10**9, max_params=100, max_size_bytes=10**9)
    with pytest.raises(BudgetError, match=r"100 parameters .*raise --params to \S+ or more"):
        check_feasible(digits, bounds_of(budget, costs, "cpu"), rng=rng)


def test_bounds_that_exclude_each_other_are_told_apart(digits, costs, rng):
    """Each can be met alone, so naming the smallest of each would puzzle."""
    opposed = {**costs, "params": lambda genes: 2e6 - costs["flops"](genes).astype(float)}
    budget = Budget(max_flops=500_000, max_params=1_400_000)  # the second asks for 600k FLOPs at least
    with pytest.raises(
        BudgetError, match="at once, though each can be met alone; raise --flops or --params; the nearest needs "
    ):
        check_feasible(digits, bounds_of(budget, opposed, "cpu"), rng=rng)


def test_a_budget_at_the_smallest_subnet_is_feasible(digits, costs, smallest, rng):
    """The bound is what is allowed, not what is forbidden."""
    least = count(digits, smallest)
    memory = least.weight_bytes + least.activation_bytes
    budget = Budget(max_flops=least.flops, max_params=least.params, max_memory_bytes=memory)
    check_feasible(digits, bounds_of(budget, costs, "cpu"), rng=rng)


def test_a_budget_that_excludes_nothing_is_noticed(digits, costs, rng):
    """It is said, so that nobody believes the budget had a say."""
    wide, tight = Budget(max_flops=300_000_000), Budget(max_flops=600_000)
    all_of_them, some_of_them = ([bound.limit for bound in bounds_of(b, costs, "cpu")] for b in (wide, tight))
    assert fits_all(digits, all_of_them, rng)
    assert not fits_all(digits, some_of_them, rng)
