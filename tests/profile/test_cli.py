"""The command as users meet it: real measurements, one JSON object, one line of reason, the right exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deps.ground.energy import EnergyMeter
from deps.profile.backends import open_backend
from deps.profile.backends.base import Conditions
from deps.profile.cli import main
from deps.profile.flops import count
from deps.profile.latency import LatencyTable
from deps.serve.targets import get_target
from deps.supernet import ArchSpec, Supernet, get_space

QUICK = ["--seconds", "1", "--force"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, so that no run of the developer's is found."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_flops_prints_smallest_and_largest(capsys: pytest.CaptureFixture[str]) -> None:
    """The exact numbers stand beside the rounded ones, since budgets are compared with them."""
    assert main(["flops", "--space", "ofa-mbv3-w1.0", "--resolution", "224"]) == 0
    out = capsys.readouterr().out
    assert "121,278,672" in out
    assert "566,170,656" in out
    assert "566M" in out


def test_flops_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts read stdout; the story goes elsewhere."""
    arguments = ["flops", "--space", "digits", "--arch", "largest", "--arch", '{"ks": 3, "e": 2, "d": 1}', "--verify"]
    assert main([*arguments, "--sample", "3", "--seed", "4", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in answer["archs"]] == ["largest", "arch 2", "random 1", "random 2", "random 3"]
    space = get_space("digits")
    for row in answer["archs"]:
        arch = ArchSpec.from_dict(space, row["arch"])
        assert row["flops"] == row["fvcore_flops"] == count(space, arch).flops
    assert answer["archs"][1]["arch"] == ArchSpec.smallest(space).to_dict()


def test_same_seed_samples_the_same_subnets(capsys: pytest.CaptureFixture[str]) -> None:
    """A number in a report can be made again."""
    texts = []
    for seed in ("1", "1", "2"):
        assert main(["flops", "--space", "ofa-resnet50", "--sample", "2", "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_latency_of_a_run_lands_in_the_run(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest run is taken and said; a second call keeps the table; what was measured otherwise is not replaced."""
    Supernet.create(get_space("digits")).save(elsewhere / "runs" / "first")
    path = elsewhere / "runs" / "first" / "latency" / "cpu.json"
    assert main(["latency", *QUICK]) == 0
    output = capsys.readouterr()
    assert "taking the newest run, runs/first" in output.err
    assert "FLOPs line" in output.out
    table = LatencyTable.load(path)
    assert table.space == "digits"
    assert table.device == open_backend("onnxruntime", Conditions(), get_target("cpu")).facts()
    assert table.energy is not None
    assert table.energy.source == EnergyMeter.best().source
    written = path.stat().st_mtime_ns

    assert main(["latency", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["is_new"] is False
    assert answer["error"]["mape"] == table.error.mape
    assert path.stat().st_mtime_ns == written

    assert main(["latency", "--threads", "2"]) == 1
    assert "measured otherwise: threads 1 (now 2)" in capsys.readouterr().err
    assert path.stat().st_mtime_ns == written

    assert main(["latency", "--overwrite", "--quiet", "--seed", "5", *QUICK]) == 0
    assert path.stat().st_mtime_ns != written
    assert LatencyTable.load(path).provenance["kit_seed"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flops"], "no trained run"),
        (["flops", "--supernet", "nowhere"], "nowhere is not a run folder"),
        (["flops", "--space", "mbv9"], "unknown search space 'mbv9'"),
        (["flops", "--space", "digits", "--arch", "{"], "is not an architecture"),
        (["flops", "--space", "digits", "--arch", '{"e": 5}'], r"expands[0] is 5; choices in digits: 2, 3, 4"),
        (["flops", "--space", "digits", "--resolution", "9"], "resolution is 9; choices in digits: 8"),
        (["latency", "--space", "digits", "--target", "toaster"], "there is no target 'toaster'"),
        (["latency", "--space", "digits", "--target", "jetson"], "deps-profile kit --target jetson-orin --out kit"),
        (["latency", "--space", "digits", "--resolution", "9"], "resolution is 9; choices in digits: 8"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_one(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    """No traceback reaches a user, and nothing is left behind."""
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.out == ""
    last = output.err.strip().splitlines()[-1]
    assert last.startswith(f"deps-profile {arguments[0]}: ")
    assert message in last
    assert list(elsewhere.iterdir()) == []


def test_damaged_table_is_not_taken_for_one(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An existing file is read before it is believed."""
    path = elsewhere / "tables" / "cpu-digits.json"
    path.parent.mkdir()
    path.write_text('{"schema_version": 1, "entr')
    assert main(["latency", "--space", "digits"]) == 1
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["flops", "--space", "digits", "--supernet", "x"],
        ["flops", "--sample", "many"],
        ["latency", "--threads", "0"],
    ],
)
def test_wrong_usage_exits_with_two(arguments: list[str]) -> None:
    """Scripts tell a typing error from work that could not be done."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize("command", ["flops", "latency", "kit", "measure", "check", "tables"])
def test_help_needs_nothing_heavy(command: str) -> None:
    """Help comes at once, and ends with an example that runs."""
    code = (
        "import sys\n"
        "from deps.profile.cli import main\n"
        "try:\n"
        f"    main([{command!r}, '--help'])\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "assert not {'torch', 'numpy', 'onnxruntime'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip().splitlines()[-1].strip().startswith(f"deps-profile {command}")


def test_interrupt_leaves_nothing_behind(elsewhere: Path) -> None:
    """Ctrl-C while nets are timed: exit code 130, no table, no half of one."""
    scratch = elsewhere / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "deps.profile.cli", "latency", "--space", "digits", "--seconds", "60"],
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(scratch)},
    )
    assert process.stderr is not None
    assert "writing the nets" in process.stderr.readline()
    deadline = time.monotonic() + 60
    # Folders of profiles appear once the nets are written and loading begins.
    while len(list(scratch.glob("deps-profile-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert list(scratch.glob("deps-profile-*")) == []
    # What was not finished is no line of the journal.
    assert [path.name for path in (elsewhere / "tables").iterdir()] == ["cpu-digits.json.journal"]
    assert len((elsewhere / "tables" / "cpu-digits.json.journal").read_text().splitlines()) == 1


BLOCKED = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "torchvision", "fvcore", "scipy", "sklearn", "matplotlib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from deps.profile.cli import main
sys.exit(main(sys.argv[1:]))
"""

UNSTEADY = """
from deps.profile import measure
measure.MAX_UNSTEADINESS = 0.0
"""


def test_kit_is_written_here_and_measured_where_there_is_no_torch(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base install of a device has neither torch nor onnx; there a table is measured, checked and listed."""
    assert main(["kit", "--space", "digits", "--resolutions", "8", "--out", "kit", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["precisions"] == ["fp32", "cpu-int8"]
    assert answer["num_nets"] == 47

    def on_device(*words: str, code: str = BLOCKED) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=120
        )

    done = on_device("measure", "kit", "--out", "tables/t.json", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "held-out nets" in done.stdout
    table = LatencyTable.load(elsewhere / "tables" / "t.json")
    assert table.precision == "fp32"
    assert not (elsewhere / "tables" / "t.json.journal").exists()
    again = on_device("measure", "kit", "--out", "tables/t.json", *QUICK)
    assert again.returncode == 1
    assert "tables/t.json exists" in again.stderr

    check = ("check", "tables/t.json", "--kit", "kit", "--seconds", "1", "--save", "--json")
    before = (elsewhere / "tables" / "t.json").read_bytes()
    refused = on_device(*check, code=UNSTEADY + BLOCKED)
    assert refused.returncode == 1
    assert "too noisy" in refused.stderr
    assert "--force" in refused.stderr
    assert (elsewhere / "tables" / "t.json").read_bytes() == before
    checked = on_device(*check, "--force")
    assert checked.returncode == 0, checked.stderr
    report = json.loads(checked.stdout)
    assert LatencyTable.load(elsewhere / "tables" / "t.json").error.mape == report["error"]["mape"]  # type: ignore[union-attr]
    assert (elsewhere / "tables" / "t.svg").read_text().startswith("<svg")
    listed = on_device("tables")
    assert "tables/t.json" in listed.stdout


def test_kill_leaves_what_was_finished(elsewhere: Path) -> None:
    """kill -9 in the middle of the second resolution: the same command measures only what is missing."""
    digits = get_space("digits")
    twice = type(digits).from_dict({**digits.to_dict(), "name": "twice", "resolutions": [8, 16]})
    Supernet.create(twice).save(elsewhere / "runs" / "twice")
    assert main(["kit", "--supernet", "runs/twice", "--precision", "fp32", "--out", "kit"]) == 0
    words = [sys.executable, "-m", "deps.profile.cli", "measure", "kit", "--out", "t.json", *QUICK]
    journal = elsewhere / "t.json.journal"
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (journal.exists() and len(journal.read_text().splitlines()) > 1) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (elsewhere / "t.json").exists()
    finished = journal.read_text().splitlines()[1]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "measuring anchors again to go on" in done.stderr
    assert f"{json.loads(finished)['unit']}:" not in done.stderr
    table = LatencyTable.load(elsewhere / "t.json")
    assert table.resolutions == (8, 16)
