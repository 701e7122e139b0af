"""Costs are those that profile counts, and latency comes from the target's own table or from nowhere."""

from __future__ import annotations

import numpy as np
import pytest

from deps.extract.costs import cost_functions, usable_table
from deps.ground.console import Story
from deps.ground.errors import FileError, LatencyTableError
from deps.profile.flops import count
from deps.profile.latency import find_table
from deps.serve.targets import get_target
from deps.supernet import get_space
from deps.supernet.sampling import decode, random_genes

QUIET = Story(quiet=True)


def test_every_axis_costs_what_is_counted_one_by_one(digits, table, rng):
    """The search believes these functions; the bundle tells what ``count`` says."""
    genes = random_genes(digits, 50, rng)
    functions = cost_functions(digits, table)
    for row, arch in enumerate(decode(digits, genes)):
        cost = count(digits, arch)
        found = {key: function(genes)[row] for key, function in functions.items()}
        assert found == {
            "flops": cost.flops,
            "params": cost.params,
            "size": cost.weight_bytes,
            "memory": cost.weight_bytes + cost.activation_bytes,
            "latency": pytest.approx(table.predict(digits, arch)),
        }


def test_without_a_table_there_is_no_latency(digits):
    """A guess from FLOPs would be taken for a measurement."""
    assert "latency" not in cost_functions(digits, None)


def test_a_missing_table_is_an_error_only_when_it_is_needed(digits, tmp_path):
    """The message holds the command that makes one."""
    assert usable_table(tmp_path, get_target("cpu"), digits, QUIET, is_needed=False) is None
    with pytest.raises(LatencyTableError, match=rf"deps-profile latency --supernet {tmp_path} --target cpu"):
        usable_table(tmp_path, get_target("cpu"), digits, QUIET, is_needed=True)


def test_where_no_table_can_be_made_the_message_says_what_works_instead(digits, tmp_path):
    """A command that then refuses would send its reader in a circle; a kit is what leads to a table."""
    with pytest.raises(LatencyTableError, match=r"bound what is counted instead, e\.g\. --flops 300M") as found:
        usable_table(tmp_path, get_target("jetson"), digits, QUIET, is_needed=True)
    assert "make it with" not in str(found.value)
    assert "deps-profile kit" in str(found.value)


def test_a_table_is_found_where_profile_writes_it(digits, table, tmp_path):
    """One place for both commands."""
    table.save(find_table(tmp_path, "cpu"))
    assert usable_table(tmp_path, get_target("cpu"), digits, QUIET, is_needed=True) == table


def test_a_table_of_another_space_is_no_help(table, tmp_path, capsys):
    """Every subnet would cost infinitely much, and the message would be about the budget."""
    other = get_space("ofa-mbv3-w1.0")
    table.save(find_table(tmp_path, "cpu"))
    with pytest.raises(LatencyTableError):
        usable_table(tmp_path, get_target("cpu"), other, QUIET, is_needed=True)
    assert usable_table(tmp_path, get_target("cpu"), other, QUIET, is_needed=False) is None
    assert "latency is not predicted" in capsys.readouterr().err


def test_a_damaged_table_is_told_and_stops_only_who_needs_it(digits, tmp_path, capsys):
    """An extraction by FLOPs must not fail because of a table it does not need."""
    path = find_table(tmp_path, "cpu")
    path.parent.mkdir(parents=True)
    path.write_text('{"schema_version": 1')
    with pytest.raises(FileError, match="damaged"):
        usable_table(tmp_path, get_target("cpu"), digits, QUIET, is_needed=True)
    assert usable_table(tmp_path, get_target("cpu"), digits, QUIET, is_needed=False) is None
    assert "damaged" in capsys.readouterr().err


def test_infinite_costs_come_from_what_was_not_measured(digits, table, rng):
    """A table of one resolution must not be stretched to others."""
    twice = type(digits).from_dict({**digits.to_dict(), "resolutions": (8, 16)})
    genes = random_genes(twice, 100, rng)
    latency = cost_functions(twice, table)["latency"](genes)
    np.testing.assert_array_equal(np.isinf(latency), genes[:, -1] == 1)
