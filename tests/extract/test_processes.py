"""A search that is killed goes on where it was, and one that torchrun starts is the search of one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deps.train.run import Run

FLAGS = ["--flops", "500k", "--target", "cpu", "--samples", "24", "--max-drop", "100", "--quiet"]

KILLED = """
import json, os, signal, sys, time
from pathlib import Path

# What an extraction imports on its way, so that it need not be imported for each of the killed ones.
import matplotlib.figure, onnx, onnxruntime, scipy.optimize, scipy.stats, torch
from deps.extract.cli import main
import deps.extract.pipeline

kept, moments, flags = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
os.environ["OMP_NUM_THREADS"] = "1"
codes = []
for lines, seconds in [*moments, (None, 0)]:
    child = os.fork()
    if child == 0:
        os._exit(main(flags))
    while lines is not None:
        if kept.exists() and kept.read_bytes().count(b"\\n") >= lines:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.001)
    codes.append((os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), kept.read_bytes().count(b"\\n")))
sys.stderr.write(json.dumps(codes))
"""


def copied(run: Run, place: Path) -> Path:
    """Return a copy of a run that was never searched, under the same name."""
    folder = place / run.folder.name
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("measurements.jsonl", "latency"))
    return folder


def manifest_of(bundle: Path) -> dict[str, Any]:
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["provenance"]["time"]
    return dict(manifest)


def call(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=250, env=environment)


@pytest.fixture(scope="module")
def alone(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of one process that nothing disturbed; its run lies beside it."""
    place = tmp_path_factory.mktemp("alone")
    out = str(place / "bundle")
    done = call(sys.executable, "-m", "deps.extract", "--supernet", str(copied(run, place)), "--out", out, *FLAGS)
    assert done.returncode == 0, done.stderr
    return place / "bundle"


def measured(folder: Path) -> list[str]:
    """Return what was measured, a line each, in an order of its own."""
    lines = [json.loads(line) for line in (folder / "measurements.jsonl").read_text().splitlines()]
    return sorted(json.dumps([line["arch"], round(line["loss"], 5)]) for line in lines)


@pytest.mark.slow
def test_kill_minus_nine_while_measuring_and_while_exporting_costs_nothing(run: Run, alone: Path, tmp_path: Path):
    """Nothing is measured twice, no file is left half written, and the bundle is that of an undisturbed search."""
    folder, out = copied(run, tmp_path), tmp_path / "bundle"
    total = len(measured(alone.parent / run.folder.name))
    moments = [(1, 0), (9, 0), (20, 0), (total, 0.3)]
    flags = ["--supernet", str(folder), "--out", str(out), *FLAGS]
    done = call(sys.executable, "-c", KILLED, str(folder / "measurements.jsonl"), json.dumps(moments), *flags)
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stderr.splitlines()[-1])
    assert [code for code, _ in codes] == [-9, -9, -9, -9, 0], done.stderr
    assert 1 <= codes[0][1] < codes[1][1] < codes[2][1] <= codes[3][1] == codes[4][1] == total
    assert measured(folder) == measured(alone.parent / run.folder.name)
    assert manifest_of(out) == manifest_of(alone)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["bundle", run.folder.name]


@pytest.mark.slow
def test_torchrun_with_two_processes_writes_the_bundle_of_one(run: Run, alone: Path, tmp_path: Path):
    """The whole command, for real: the first process answers, both measure, and what they choose is the same."""
    folder, out = copied(run, tmp_path), tmp_path / "bundle"
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = call(*starter, "-m", "deps.extract", "--supernet", str(folder), "--out", str(out), "--json", *FLAGS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bundle"] == str(out)
    assert measured(folder) == measured(alone.parent / run.folder.name)
    assert manifest_of(out) == manifest_of(alone)
