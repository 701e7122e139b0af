"""The log: one JSON object a line for machines, a sentence for people."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from deps.serve.logs import StderrHandler, set_up_logs


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, StderrHandler)]


def test_json_log_holds_the_facts_in_keys_of_their_own(capsys: pytest.CaptureFixture[str]):
    """A machine must not parse sentences."""
    set_up_logs("info", "json")
    logger = logging.getLogger("deps.serve")
    logger.info("swapped %s", "tiny", extra={"model": "tiny", "swaps": 2})
    logger.debug("not written")
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        logger.exception("two\nlines")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    time = first.pop("time")
    assert time.endswith("Z")
    assert len(time) == len("2026-01-02T03:04:05.678Z")
    assert first == {
        "level": "info",
        "logger": "deps.serve",
        "message": "swapped tiny",
        "model": "tiny",
        "swaps": 2,
    }
    assert "ZeroDivisionError" in second["traceback"]


def test_text_log_is_a_line_a_person_reads(capsys: pytest.CaptureFixture[str]):
    """The default; setting it up twice does not write twice."""
    set_up_logs("debug", "json")
    set_up_logs("warning", "text")
    logging.getLogger("deps.serve").warning("cannot load %s", "tiny")
    logging.getLogger("deps.serve").info("not written")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("WARNING deps.serve: cannot load tiny")
