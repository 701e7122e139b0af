"""Budgets are read as people type them, and one that cannot be met says what could be."""

from __future__ import annotations

import pytest

from deps.extract.budget import Budget, parse_latencies
from deps.ground.errors import BudgetError, UnitError


def test_units_are_read_and_shown_again():
    """What is printed is what was typed, so that a typing error is seen."""
    budget = Budget.parse({"flops": "300M", "latency": "200us", "params": None, "size": "4MB", "memory": "64KiB"})
    assert budget == Budget(
        max_flops=300_000_000, max_latency_ms=0.2, max_size_bytes=4_000_000, max_memory_bytes=65_536
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


def test_latencies_are_read_for_all_targets_or_for_each():
    """Devices differ by orders of magnitude, so one number for all is rarely what is meant."""
    assert parse_latencies(None) == (None, {})
    assert parse_latencies("5ms") == (5.0, {})
    assert parse_latencies("cpu=5ms, rtx=200us") == (None, {"cpu": 5.0, "rtx": pytest.approx(0.2)})


@pytest.mark.parametrize("text", ["cpu=5ms,1ms", "cpu=5ms,cpu=6ms", "=5ms", "5ms,cpu=5ms"])
def test_a_latency_that_is_for_nobody_is_refused(text):
    """Taking one of two contradicting numbers would be a guess."""
    with pytest.raises(BudgetError, match=r"cpu=5ms,rtx=1ms"):
        parse_latencies(text)
