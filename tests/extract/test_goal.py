"""Each target is held to its own budget; targets that share are held to all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deps.extract.budget import Budget
from deps.extract.config import ExtractConfig
from deps.extract.goal import find_aims, find_targets
from deps.ground.console import Story
from deps.ground.errors import BundleError, LatencyTableError
from deps.profile.latency import find_table
from deps.supernet import ArchSpec

QUIET = Story(quiet=True)


@pytest.fixture
def tables(table, tmp_path):
    """A folder with latency tables of two targets, one of them ten times as fast."""
    table.save(find_table(tmp_path, "cpu"))
    fast = {key: replace(entry, median_ms=entry.median_ms / 10) for key, entry in table.entries.items()}
    replace(table, target="rtx", entries=fast).save(find_table(tmp_path, "rtx"))
    return tmp_path


def config(**changes) -> ExtractConfig:
    return ExtractConfig(**{"targets": ("cpu", "rtx"), "budget": Budget(max_flops=500_000), **changes})


def test_each_target_has_an_aim_with_its_own_latency(tables, digits):
    """A millisecond is nothing on one device and an age on another."""
    wish = config(latency_ms={"cpu": 0.05, "rtx": 0.004})
    aims = find_aims(wish, find_targets(wish), tables, digits, QUIET)
    told = [[bound.write(bound.maximum) for bound in aim.bounds()] for aim in aims]
    assert told == [["500k FLOPs", "0.05 ms on cpu"], ["500k FLOPs", "0.004 ms on rtx"]]
    cpu, rtx = (aim.goals[0].latency(digits, ArchSpec.smallest(digits)) for aim in aims)
    assert cpu["cpu"].predicted_ms > 2 * rtx["rtx"].predicted_ms
    assert [goal.out.name for aim in aims for goal in aim.goals] == ["cpu-500k-0.05ms", "rtx-500k-0.004ms"]


def test_a_shared_aim_has_the_bounds_of_all_targets_once(tables, digits):
    """The subnet must be quick enough everywhere; what all ask alike need not be checked twice."""
    wish = config(latency_ms={"cpu": 0.05, "rtx": 0.004}, is_shared=True)
    (aim,) = find_aims(wish, find_targets(wish), tables, digits, QUIET)
    assert aim.describe() == "500k FLOPs and 0.05 ms on cpu and 0.004 ms on rtx"
    assert aim.names() == "cpu, rtx"
    assert len(aim.limits()) == 3


def test_a_latency_that_no_table_knows_is_refused_and_an_unbounded_target_needs_none(tables, digits):
    """Only what is bounded must be known."""
    wish = config(targets=("cpu", "jetson"), latency_ms={"cpu": 0.05})
    aims = find_aims(wish, find_targets(wish), tables, digits, QUIET)
    assert aims[1].goals[0].table is None
    wish = config(targets=("cpu", "jetson"), budget=Budget(max_latency_ms=0.05))
    with pytest.raises(LatencyTableError, match="jetson-orin"):
        find_aims(wish, find_targets(wish), tables, digits, QUIET)


def test_bundles_of_several_targets_lie_side_by_side_and_nothing_else_is_touched(tmp_path):
    """Every place is looked at before the search, not after it."""
    wish = config(out=tmp_path / "phone")
    assert wish.place_of("rtx") == tmp_path / "phone" / "rtx"
    find_targets(wish)
    (tmp_path / "phone" / "rtx").mkdir(parents=True)
    (tmp_path / "phone" / "rtx" / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="left alone"):
        find_targets(wish)
