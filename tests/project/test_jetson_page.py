"""The page on measuring a Jetson names only commands and flags that exist."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "measuring-a-jetson.md"
PROMPTS = ("workstation$ ", "jetson$ ")


def commands() -> list[list[str]]:
    """Return the words of every command of ours on the page."""
    lines = [line.strip() for line in PAGE.read_text(encoding="utf-8").splitlines()]
    typed = [line.removeprefix(prompt) for line in lines for prompt in PROMPTS if line.startswith(prompt)]
    words = [shlex.split(line, comments=True) for line in typed]
    return [[Path(word[0]).name, *word[1:]] for word in words if Path(word[0]).name.startswith("deps-")]


def test_the_way_from_kit_to_bundle_is_complete() -> None:
    """Somebody with a new board types these one after another."""
    done = [" ".join(words[:2]) for words in commands()]
    wanted = ["kit", "measure", "check", "tables"]
    assert [d.removeprefix("deps-profile ") for d in done if d.removeprefix("deps-profile ") in wanted] == wanted
    assert any(words[0] == "deps-extract" and "--latency" in words for words in commands())


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words[:2]))
def test_every_command_is_understood(words: list[str]) -> None:
    """A flag that was renamed would fail on a board far from here, after an afternoon of flashing."""
    module = importlib.import_module(f"deps.{words[0].removeprefix('deps-')}.cli")
    arguments = words[1:]
    if words[0] == "deps-serve" and arguments[0] not in module.COMMANDS:
        arguments = ["serve", *arguments]
    code: object = 0
    try:
        module.build_parser().parse_args(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 0, f"{' '.join(words)} is not understood"
