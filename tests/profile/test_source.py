"""Which space a command is about is found without torch, and said plainly when it cannot be found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deps.ground.errors import FileError, RunError, SpaceError
from deps.profile.source import find_source
from deps.supernet import Supernet, get_space


def run_folder(path: Path, name: str, *, age: int = 0) -> Path:
    """Write the supernet of a run, as training leaves it."""
    Supernet.create(get_space(name)).save(path)
    stamp = 1_700_000_000 - age
    os.utime(path / "supernet.json", (stamp, stamp))
    return path


def test_run_tells_its_space(tmp_path: Path) -> None:
    """What is profiled is what was trained, also when a shipped space of that name changes later."""
    run = run_folder(tmp_path / "digits", "digits")
    source = find_source(run=run, space=None)
    assert source.space == get_space("digits")
    assert source.run == run


def test_newest_run_is_the_default(tmp_path: Path) -> None:
    """After training nobody wants to type the folder again."""
    run_folder(tmp_path / "old", "cifar-mbv3", age=100)
    newest = run_folder(tmp_path / "new", "digits")
    (tmp_path / "unfinished").mkdir()
    assert find_source(run=None, space=None, root=tmp_path).run == newest


def test_named_space_needs_no_run(tmp_path: Path) -> None:
    """Counting a published space must work before anything was trained."""
    source = find_source(run=None, space="ofa-resnet50", root=tmp_path)
    assert (source.space.name, source.run) == ("ofa-resnet50", None)


def test_nothing_to_profile_is_explained(tmp_path: Path) -> None:
    """Each message says what to type."""
    with pytest.raises(RunError, match=r"no trained run.*--space.*--supernet.*deps-train"):
        find_source(run=None, space=None, root=tmp_path)
    with pytest.raises(RunError, match="not a run folder"):
        find_source(run=tmp_path / "none", space=None)
    with pytest.raises(FileError, match=r"supernet\.json does not exist"):
        find_source(run=tmp_path, space=None)
    with pytest.raises(SpaceError, match="unknown search space 'x'; known: ofa-mbv3"):
        find_source(run=None, space="x")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 1, "space": {"name": "x"}}', '{"space": 3}']
)
def test_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    """A run that was half copied gives one line, whatever is left of it."""
    (tmp_path / "supernet.json").write_text(text)
    with pytest.raises(FileError, match=r"supernet\.json"):
        find_source(run=tmp_path, space=None)


def test_profiling_a_run_imports_no_torch(tmp_path: Path) -> None:
    """A device reads the space and the table with the base install."""
    run = run_folder(tmp_path / "digits", "digits")
    code = (
        "import sys, pathlib\n"
        "from deps.profile.source import find_source\n"
        "import deps.profile.table, deps.profile.flops, deps.profile.kit, deps.profile.report, deps.profile.cli\n"
        f"source = find_source(run=pathlib.Path({str(run)!r}), space=None)\n"
        "heavy = {'torch', 'onnx', 'scipy', 'fvcore', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert json.loads((run / "supernet.json").read_text())["space"]["name"] == "digits"
