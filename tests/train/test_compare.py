"""Finished runs side by side: what was reached, and what it cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deps.train.cli import main
from deps.train.run import read_results


def test_a_comparison_repeats_what_the_runs_say_of_themselves(finished_run: Path, tmp_path: Path, capsys):
    """Nothing is measured again; the same run twice gives the same line twice."""
    assert main(["compare", str(finished_run), str(finished_run), "--json", "--out", str(tmp_path)]) == 0
    answer = json.loads(capsys.readouterr().out)
    results = read_results(finished_run)
    assert results is not None
    first, second = answer["runs"]
    assert first == second
    assert first["cost"] == results["cost"]
    assert first["mean_test_top1"] == pytest.approx(sum(s["test_top1"] for s in results["subnets"]) / 3)
    assert [s["flops"] for s in first["subnets"]] == sorted(s["flops"] for s in results["subnets"])
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "compare.svg").read_text()
    assert json.loads((tmp_path / "compare.json").read_text())["runs"] == answer["runs"]


def test_the_table_names_each_run_with_its_method_and_cost(finished_run: Path, capsys):
    """The line a person copies into a notebook."""
    assert main(["compare", str(finished_run)]) == 0
    text = capsys.readouterr().out
    assert "train FLOPs" in text
    (line,) = [line for line in text.splitlines() if line.startswith("whole")]
    assert "deps" in line


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path, capsys):
    """With the reason."""
    assert main(["compare", str(tmp_path)]) == 1
    assert "not a run folder" in capsys.readouterr().err
