"""The command line: it works with few words, explains every refusal in one line, and leaves nothing half written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deps.extract.cli import main
from deps.profile.latency import find_table
from deps.serve.bundle import read_bundle
from deps.train.run import Run

FAST = ["--samples", "8", "--max-drop", "100"]


@pytest.fixture(scope="session")
def measured(run: Run) -> Run:
    """The run with its measurements remembered, so that what is tested here takes no time to find."""
    assert main(["--supernet", str(run.folder), "--target", "cpu", "--quiet", *FAST, "--out", f"{run.folder}-b"]) == 0
    return run


@pytest.fixture
def home(measured: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of the run under ``runs/``, where the command is called."""
    shutil.copytree(measured.folder, tmp_path / "runs" / "digits")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the command, which must fail; return its one line on stderr."""
    assert main([*words, "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    (line,) = err.splitlines()
    assert line.startswith("deps-extract: ")
    return line


def test_a_budget_and_a_target_are_enough(home, capsys):
    """The newest run is found, and the bundle is named after what it is for."""
    assert main(["--flops", "300M", "--target", "jetson", *FAST]) == 0
    out, err = capsys.readouterr()
    assert read_bundle(home / "bundles" / "jetson-300M").manifest.target == "jetson-orin"
    assert "every subnet of digits fits 300M FLOPs: taking the most accurate" in err
    assert "predictor: 8 measured subnets" in err
    assert "cpu-int8" in out
    assert "\x1b" not in out + err


def test_without_a_budget_the_most_accurate_is_taken_and_that_is_said(home, capsys):
    """A wish that is easily understood is not an error."""
    assert main(["--target", "cpu", *FAST]) == 0
    assert "no budget was given: taking the most accurate" in capsys.readouterr().err
    assert read_bundle(home / "bundles" / "cpu-unlimited")


def test_json_is_one_object_and_quiet_is_quiet(home, capsys):
    """Other programs read stdout."""
    assert main(["--flops", "500k", "--params", "60k", "--target", "cpu", "--json", "--quiet", *FAST]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err == ""
    assert report["subnet"]["flops"] <= 500_000
    assert report["subnet"]["params"] <= 60_000
    assert report["bundle"] == "bundles/cpu-500k-60kp"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "cpu", "--flops", "1k"], "no subnet of digits meets 1k FLOPs (smallest: "),
        (["--target", "cpu", "--flops", "300X"], "'300X' is not a count"),
        (["--target", "cpu", "--latency", "5"], "'5' is not a duration"),
        (["--target", "toaster"], "there is no target 'toaster'; expected one of cpu, jetson-orin (= jetson)"),
        (["--target", "cpu", "--latency", "1ms"], "deps-profile latency --supernet runs/digits --target cpu"),
        (["--target", "cpu", "--supernet", "runs/nothing"], "runs/nothing does not exist; train a supernet first"),
        (["--target", "cpu", "--supernet", "."], "is not a run folder"),
        (["--target", "cpu", "--max-drop", "-1"], "max_drop is -1"),
        (["--target", "cpu", "--samples", "2"], "--samples 60"),
        (["--target", "cpu", "--seed", "-1"], "seed is -1"),
        (["--target", "cpu,rtx,cpu"], "expected each once, e.g. --target cpu,rtx"),
        (["--target", "cpu", "--latency", "rtx=1ms"], "a latency is given for rtx, which is not among the targets cpu"),
        (["--target", "cpu", "--family", "0"], "family is 0; expected 1 to 64 subnets"),
        (["--target", "cpu", "--targets", "none.toml"], "none.toml cannot be read"),
    ],
)
def test_a_wish_that_cannot_be_granted_is_explained(home, capsys, words, message):
    """What happened, what was expected, what to do; and no bundle."""
    assert message in refusal(capsys, *words)
    assert not (home / "bundles").exists()


def test_no_run_at_all_names_the_command_that_makes_one(tmp_path, monkeypatch, capsys):
    """The first thing a newcomer meets."""
    monkeypatch.chdir(tmp_path)
    assert "deps-train digits" in refusal(capsys, "--target", "cpu")


@pytest.mark.parametrize(
    ("name", "content"),
    [("supernet.safetensors", None), ("supernet.json", b"{"), ("recipe.json", b"[]"), ("supernet.safetensors", b"")],
)
def test_a_damaged_run_is_refused(home, capsys, name, content):
    """Weights that are not what was trained give a bundle that is not what was asked for."""
    path = home / "runs" / "digits" / name
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    assert "damaged" in refusal(capsys, "--target", "cpu", "--supernet", "runs/digits")
    assert not (home / "bundles").exists()


def test_a_half_written_bundle_is_not_replaced(home, capsys):
    """Refused before the search, not after it."""
    out = home / "bundles" / "cpu-unlimited"
    out.mkdir(parents=True)
    (out / "manifest.json").write_text('{"schema_version": 1')
    line = refusal(capsys, "--target", "cpu")
    assert "not a whole bundle" in line
    assert "--out" in line
    assert (out / "manifest.json").read_text() == '{"schema_version": 1'


def test_a_latency_budget_that_no_subnet_meets_names_the_fastest(home, capsys, table):
    """By the table of the target."""
    table.save(find_table("runs/digits", "cpu"))
    assert "no subnet of digits meets 0.001 ms on cpu (fastest: 0." in refusal(
        capsys, "--target", "cpu", "--latency", "1us"
    )


def test_a_place_that_cannot_be_written_is_refused(home, capsys):
    """Here a file stands where a folder is needed; it is said before the search."""
    (home / "bundles").write_text("a file")
    assert "cannot write bundles/cpu-unlimited" in refusal(capsys, "--target", "cpu")
    assert (home / "bundles").read_text() == "a file"


def test_help_and_version_need_no_torch():
    """They answer at once, also where only the base is installed."""
    for flag in ("--help", "--version"):
        script = [
            "import sys",
            "from deps.extract.cli import main",
            f"try: main([{flag!r}])",
            "finally: print('torch' in sys.modules)",
        ]
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(script)], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.rstrip().endswith("False")
    assert main.__doc__


def command(home: Path, *words: str, limit_bytes: int | None = None) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""

    def limit() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job, and what it starts, ignores Ctrl-C
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return subprocess.Popen(
        [sys.executable, "-m", "deps.extract.cli", *words, *FAST],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=limit,
    )


def test_a_disk_that_fills_is_told_in_one_line(home):
    """A limit on the size of files stands for the full disk; nothing is left where the bundle should be."""
    process = command(home, "--target", "cpu", "--flops", "500k", limit_bytes=60_000)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert out == ""
    assert "Traceback" not in err
    assert "deps-extract: cannot write" in err.splitlines()[-1]
    assert not (home / "bundles").exists() or list((home / "bundles").iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_stopping_while_the_bundle_is_written_leaves_the_older_one(measured, home, how):
    """Stopped at the worst moment, when the new bundle is half there; the next run clears what a kill left."""
    out = home / "bundles" / "rtx-500k"
    shutil.copytree(f"{measured.folder}-b", out)
    before = (out / "manifest.json").read_bytes()
    process = command(home, "--target", "rtx", "--flops", "500k")
    deadline = time.monotonic() + 120
    while not list(out.parent.glob(".rtx-500k.*.tmp/models/*/fp32.onnx")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), err
    assert "Traceback" not in err
    assert (out / "manifest.json").read_bytes() == before
    assert read_bundle(out)
    leftovers = [path.name for path in out.parent.iterdir() if path != out]
    assert len(leftovers) == (0 if how == signal.SIGINT else 1)
    if leftovers:
        assert main(["--target", "rtx", "--flops", "500k", "--quiet", *FAST]) == 0
        assert [path.name for path in out.parent.iterdir()] == ["rtx-500k"]
        assert (out / "manifest.json").read_bytes() != before
