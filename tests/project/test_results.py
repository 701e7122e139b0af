"""The page of results, its pictures and the README's first table are what the studies' JSON says."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deps.train.recipe import override
from deps.train.recipes import get_recipe

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "benchmarks" / "studies"


def check(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(STUDIES / "page.py"), "--check", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_page_pictures_and_readme_are_what_the_results_say():
    """Nobody typed a number in, and no result was added without making the page anew."""
    checked = check()
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_changed_number_is_noticed(tmp_path: Path):
    """The check above can fail: another accuracy in one file changes the page, and the README with it."""
    results = tmp_path / "results"
    shutil.copytree(STUDIES / "results", results)
    finished = sorted(results.glob("methods/*.json"))
    if not finished:
        pytest.skip("no method is finished yet")
    content = json.loads(finished[0].read_text(encoding="utf-8"))
    content["subnets"][0]["test_top1"] += 0.01
    finished[0].write_text(json.dumps(content), encoding="utf-8")
    checked = check("--results", str(results))
    assert checked.returncode == 1
    assert "docs/results.md" in checked.stdout
    assert "README.md" in checked.stdout


def test_what_is_called_equal_cost_costs_the_same(monkeypatch: pytest.MonkeyPatch):
    """Rivals cost what DεpS does, the late variant its share of it, by the account that trainings keep."""
    monkeypatch.syspath_prepend(str(STUDIES))
    setting = importlib.import_module("setting")
    smoke = setting.SMOKE

    def cost(name: str, study: str = "methods") -> int:
        (job,) = (job for job in importlib.import_module(study).jobs(smoke) if job.name == name)
        recipe, changes = job.resolved(smoke)
        return setting.planned_flops(override(get_recipe(recipe), changes), smoke.train_images, 10)

    for name in ("ofa-0", "bignas-0", "compofa-0", "late-0"):
        assert cost(name) == pytest.approx(cost("deps-0"), rel=0.03)
    assert cost("late-short-0") == pytest.approx(cost("deps-0") / 2.5, rel=0.05)
    assert cost("late-mid-0") == pytest.approx(cost("ofa-full-0") / 2.5, rel=0.05)
    assert cost("ofa-0", "larger") == pytest.approx(cost("deps-0", "larger"), rel=0.03)
    assert cost("late-short-0", "larger") == pytest.approx(cost("deps-0", "larger") / 2.5, rel=0.05)


@pytest.mark.slow
def test_a_study_goes_the_whole_way_and_not_twice(tmp_path: Path):
    """Real trainings on a few digits: DεpS with its curve and gradients, a rival at equal cost, a subnet alone."""
    names = ["methods/deps-0", "methods/ofa-0", "alone/subnet5-0"]
    options = ["--setting", "smoke", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    command = [sys.executable, str(STUDIES / "run.py"), *options, "--only", ",".join(names)]
    for expected in ("now ", "done"):
        output = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
        told = [line for line in output.splitlines() if line[:4] in ("now ", "done", "open")]
        assert [line.split() for line in told] == [[expected.strip(), name] for name in names]
    # What fails is told, and does not keep the others from being done: here the checkpoints are gone.
    shutil.rmtree(tmp_path / "runs" / "methods" / "deps-0" / "checkpoints")
    more = subprocess.run([*command[:-1], "shrinking/ramp,alone/subnet4-0"], capture_output=True, text=True, cwd=ROOT)
    assert more.returncode == 1
    assert "bad   shrinking/ramp" in more.stdout
    assert (tmp_path / "results" / "alone" / "subnet4-0.json").exists()
    deps, ofa, alone = (json.loads((tmp_path / "results" / f"{name}.json").read_text()) for name in names)
    assert ofa["cost"]["flops"] == pytest.approx(deps["cost"]["flops"], rel=0.03)
    assert [point["epoch"] for point in deps["curve"]] == [1, 2, 3, 4]
    assert deps["curve"][-1]["flops"] == deps["cost"]["flops"]
    assert {row["role"] for row in deps["gradients"]} == {"smallest", "random"}
    flops = [subnet["flops"] for subnet in deps["subnets"]]
    assert flops == sorted(flops)
    assert alone["arch"] == deps["subnets"][5]["arch"]
    assert alone["images"] == 4 * 256
