"""The account of a training is a sum that can be done by hand."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from deps.ground.energy import EnergyMeter, PowerSensor
from deps.profile.flops import count
from deps.supernet import ArchSpec, get_space
from deps.train.cost import Cost, CostAccount
from deps.train.distributed import ALONE
from deps.train.methods import method_of
from deps.train.run import read_results

from .conftest import tiny_recipe

SPACE = get_space("digits")


def test_a_step_costs_three_forward_passes_of_each_of_its_subnets():
    """One forward, and a backward of about twice that."""
    account = CostAccount(SPACE, Cost(), EnergyMeter([]))
    plans = [method_of(SPACE, tiny_recipe(), 4).plan(step) for step in (0, 9)]
    for plan in plans:
        account.add(plan, 16)
    expected = sum(3 * 16 * count(SPACE, share.arch).flops for plan in plans for share in plan.shares)
    total = account.total(ALONE, 2.0)
    assert total.flops == expected
    assert total.images == {"largest": 32, "smallest": 16, "random": 32}
    assert total.device_seconds == 2.0


def test_a_finished_teacher_costs_its_forward_pass():
    """OFA's teacher is not free."""
    account = CostAccount(SPACE, Cost(), EnergyMeter([]))
    plan = method_of(SPACE, tiny_recipe(method="ofa", epochs=12), 4).plan(47)
    account.add(plan, 10)
    total = account.total(ALONE, 0.0)
    assert total.images["teacher"] == 10
    shares = sum(30 * count(SPACE, share.arch).flops for share in plan.shares)
    assert total.flops == shares + 10 * count(SPACE, ArchSpec.largest(SPACE)).flops


def test_joules_that_could_not_be_read_once_stay_unknown():
    """A sum of some of the sittings would look like the whole."""
    before = Cost(joules=None, device_seconds=5.0, images={"largest": 1}, flops=7)
    with EnergyMeter([PowerSensor("steady", lambda: 2.0)]) as meter:
        time.sleep(0.05)
        total = CostAccount(SPACE, before, meter).total(ALONE, 1.0)
        known = CostAccount(SPACE, replace(before, joules=3.0), meter).total(ALONE, 1.0)
        cut_off = CostAccount(SPACE, replace(before, joules=3.0), meter).total(ALONE, 1.0, is_cut_off=True)
    assert total.joules is cut_off.joules is None
    assert known.joules is not None
    assert known.joules > 3.05
    assert (total.device_seconds, total.images, total.flops) == (6.0, {"largest": 1}, 7)
    assert Cost.from_dict(total.to_dict()) == total


def test_a_run_tells_its_account(finished_run: Path):
    """Twelve steps of 16 images, eight of them with subnets; here without joules, said so."""
    results = read_results(finished_run)
    assert results is not None
    cost = Cost.from_dict(results["cost"])
    assert cost.images == {"largest": 192, "smallest": 128, "random": 256}
    assert cost.flops > 3 * 192 * count(SPACE, ArchSpec.largest(SPACE)).flops
    assert ("joules unread" in cost.to_text()) == (cost.joules is None)
