"""Files appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deps.ground.errors import FileError
from deps.ground.files import read_json, sha256_of, whole_file, whole_folder, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path):
    """A reader must never meet half a file."""
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        assert not (tmp_path / "a.txt").exists()
    assert names(tmp_path) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    """What was good stays good."""
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path):
    """A bundle that is copied while it is written would be broken on the device."""
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "b") as temporary:
        (temporary / "model").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []
    with whole_folder(tmp_path / "b") as temporary:
        (temporary / "model").write_text("whole")
    assert (tmp_path / "b" / "model").read_text() == "whole"


def test_replacing_a_folder_keeps_the_old_one_until_the_new_is_complete(tmp_path: Path):
    """A failed second extraction must not cost the first one's bundle."""
    with whole_folder(tmp_path / "b") as temporary:
        (temporary / "model").write_text("old")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "b", replace=True) as temporary:
        raise ZeroDivisionError
    assert (tmp_path / "b" / "model").read_text() == "old"
    with whole_folder(tmp_path / "b", replace=True) as temporary:
        (temporary / "other").write_text("new")
    assert names(tmp_path / "b") == ["other"]
    assert names(tmp_path) == ["b"]


def test_an_existing_folder_is_refused_unless_it_may_be_replaced(tmp_path: Path):
    """Nothing of a user's is removed unasked."""
    (tmp_path / "b").mkdir()
    with pytest.raises(FileError, match="exists already"), whole_folder(tmp_path / "b"):
        pass


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path):
    """kill -9 leaves a temporary file; it must not stay for ever, nor be taken for the real one."""
    code = (
        "import sys, time\nfrom deps.ground.files import whole_file\n"
        "with whole_file(sys.argv[1]) as t:\n    t.write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a.txt")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [name.startswith(".a.txt.") for name in names(tmp_path)] == [True]
    write_text(tmp_path / "a.txt", "whole")
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path: Path):
    """The commonest failure of long work; a limit on the file size stands for the full disk."""
    code = (
        "import resource, signal, sys\n"
        "from deps.ground.errors import FileError\nfrom deps.ground.files import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_text(sys.argv[1], 'x' * 5000)\nexcept FileError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.txt")], capture_output=True, text=True, check=True, timeout=60
    )
    assert "cannot write" in done.stdout
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    """A file stands where a folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"cannot write .*file/a\.txt.*--out"):
        write_text(tmp_path / "file" / "a.txt", "x")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ('{"schema_version": 2}', "schema_version 2"),
        ("[" * 100_000, "damaged"),
    ],
)
def test_damaged_json_is_explained(tmp_path: Path, content: str, told: str):
    """A run folder can be damaged by hand, by a crash or by a newer version."""
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(FileError, match=told):
        read_json(tmp_path / "a.json", schema_version=1)


def test_json_comes_back_as_it_was(tmp_path: Path):
    """Floats too: resumed runs depend on it."""
    value = {"schema_version": 1, "x": 0.1 + 0.2, "text": "ε"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", schema_version=1) == value
    assert len(sha256_of(tmp_path / "a.json")) == 64


def test_a_living_process_keeps_its_temporary_file(tmp_path: Path):
    """Two extractions side by side must not remove each other's work."""
    living = tmp_path / f".a.txt.{os.getppid()}.tmp"
    living.write_text("in work")
    write_text(tmp_path / "a.txt", "whole")
    assert living.exists()
