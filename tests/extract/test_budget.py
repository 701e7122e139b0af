"""Budgets are read as people type them, and one that cannot be met says what could be."""

from __future__ import annotations

import pytest

from deps.extract.budget import Budget, check_feasible, fits_all, limits
from deps.ground.errors import BudgetError, UnitError
from deps.profile.flops import count


def test_units_are_read_and_shown_again():
    """What is printed is what was typed, so that a typing error is seen."""
    budget = Budget.parse({"flops": "300M", "latency": "200us", "params": None, "size": "4MB", "memory": "64KiB"})
    assert budget == Budget(
        max_flops=300_000_000, max_latency_ms=0.2, max_size_bytes=4_000_000, max_activation_bytes=65_536
    )
    assert budget.describe() == "300M FLOPs and 0.2 ms and 4 MB and 65.5 kB"
    assert budget.slug() == "300M-0.2ms-4MB-65.5kB"


def test_no_budget_is_a_budget():
    """Taking the most accurate subnet is a fair wish."""
    assert Budget().describe() == "no limit"
    assert Budget().slug() == "unlimited"
    assert Budget().main_axis.key == "flops"


@pytest.mark.parametrize("texts", [{"latency": "5"}, {"flops": "300X"}, {"size": "-4MB"}, {"params": "0"}])
def test_a_quantity_that_cannot_be_read_is_refused(texts):
    """Guessing a unit would give a wrong subnet in silence."""
    with pytest.raises(UnitError, match=r"e\.g\."):
        Budget.parse(texts)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_bound_is_a_positive_number(value):
    """The same must hold for budgets that are built in code."""
    with pytest.raises(BudgetError, match="positive"):
        Budget(max_latency_ms=value)


def test_the_smallest_subnet_is_named_when_none_fits(digits, costs, smallest, rng):
    """The user must learn what would be enough."""
    with pytest.raises(BudgetError) as caught:
        check_feasible(digits, Budget(max_flops=100_000), costs, target="cpu", rng=rng)
    least = count(digits, smallest).flops
    assert str(caught.value) == (
        f"no subnet of digits meets 100k FLOPs (smallest: {least / 1e3:.0f}k FLOPs); raise --flops"
    )


def test_only_the_axis_that_is_too_tight_is_named(digits, costs, rng):
    """Raising another bound would not help."""
    budget = Budget(max_flops=10**9, max_params=100, max_size_bytes=10**9)
    with pytest.raises(BudgetError, match=r"100 parameters .*raise --params$"):
        check_feasible(digits, budget, costs, target="cpu", rng=rng)


def test_bounds_that_exclude_each_other_are_told_apart(digits, costs, rng):
    """Each can be met alone, so naming the smallest of each would puzzle."""
    opposed = {**costs, "params": lambda genes: 2e6 - costs["flops"](genes).astype(float)}
    budget = Budget(max_flops=500_000, max_params=1_400_000)  # the second asks for 600k FLOPs at least
    with pytest.raises(BudgetError, match="at once, though each can be met alone; raise --flops or --params"):
        check_feasible(digits, budget, opposed, target="cpu", rng=rng)


def test_a_budget_at_the_smallest_subnet_is_feasible(digits, costs, smallest, rng):
    """The bound is what is allowed, not what is forbidden."""
    least = count(digits, smallest)
    budget = Budget(max_flops=least.flops, max_params=least.params, max_activation_bytes=least.activation_bytes)
    check_feasible(digits, budget, costs, target="cpu", rng=rng)


def test_a_budget_that_excludes_nothing_is_noticed(digits, costs, rng):
    """It is said, so that nobody believes the budget had a say."""
    wide, tight = Budget(max_flops=300_000_000), Budget(max_flops=600_000)
    assert fits_all(digits, limits(wide, costs), rng)
    assert not fits_all(digits, limits(tight, costs), rng)
