"""All commands have the same manners."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from deps.ground.console import add_common_flags, require, run_command, text_table
from deps.ground.errors import DepsError, MissingExtraError
from deps.ground.provenance import provenance


class Answer:
    def to_text(self) -> str:
        return "forty-two"

    def to_dict(self) -> dict[str, Any]:
        return {"answer": 42}


def call(run: Any, *argv: str) -> int:
    parser = argparse.ArgumentParser()
    add_common_flags(parser)
    return run_command("deps-test", run, parser.parse_args(argv))


def test_the_answer_goes_to_stdout(capsys: pytest.CaptureFixture[str]):
    """So that it can be piped."""
    assert call(lambda _: Answer()) == 0
    assert capsys.readouterr() == ("forty-two\n", "")


def test_json_is_exactly_one_object(capsys: pytest.CaptureFixture[str]):
    """Programs read it."""
    assert call(lambda _: Answer(), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"answer": 42}


def test_an_error_is_one_line_and_exit_code_one(capsys: pytest.CaptureFixture[str]):
    """A traceback helps nobody who did not write the code."""

    def fail(_: argparse.Namespace) -> Answer:
        raise DepsError("the budget is too small; raise it")

    assert call(fail) == 1
    assert capsys.readouterr() == ("", "deps-test: the budget is too small; raise it\n")
    assert call(fail, "--verbose") == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_exit_code_130(capsys: pytest.CaptureFixture[str]):
    """As shells expect it."""

    def interrupted(_: argparse.Namespace) -> Answer:
        raise KeyboardInterrupt

    assert call(interrupted) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_missing_extra_prints_its_install_line():
    """The base install is small on purpose; what is missing must be said."""
    with pytest.raises(MissingExtraError, match=r"no_such_module is not installed; .*deps-ofa\[compile\]"):
        require("no_such_module", "compile")


def test_tables_are_aligned():
    """Numbers stand under each other."""
    assert text_table(("a", "bb"), [("x", "1"), ("yy", "100")]).splitlines() == [
        "a    bb",
        "--  ---",
        "x     1",
        "yy  100",
    ]


def test_provenance_names_what_results_depend_on():
    """A number without versions cannot be made again."""
    found = provenance()
    assert {"deps", "commit", "time", "python", "cpu", "packages"} <= set(found)
    assert "numpy" in found["packages"]
    json.dumps(found)


def test_a_bar_shows_on_a_terminal_and_nowhere_else():
    """A person watches; a log file must not fill with control characters."""
    code = (
        "import time; from deps.ground.console import Story\n"
        "for _ in Story().track(range(5), 'measuring', total=5): time.sleep(0.05)\nStory().say('done')"
    )
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert piped.stderr == "done\n"
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        # Linux answers EIO when the other end of a terminal is closed.
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 4096):
                shown += piece
    os.close(ours)
    assert process.returncode == 0
    assert b"measuring:" in shown
    assert shown.rstrip().endswith(b"done")
