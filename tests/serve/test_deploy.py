"""What docs/deploy tells people to run is what the command understands."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

from deps.serve.cli import build_parser

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "docs" / "deploy"


def test_the_units_command_is_one_that_the_parser_takes():
    """A flag that was renamed would only be noticed when the machine boots."""
    line = re.search(r"^ExecStart=(.*)$", (DEPLOY / "deps-serve.service").read_text(), re.MULTILINE)
    assert line is not None
    program, *arguments = shlex.split(line[1])
    assert program.endswith("/deps-serve")
    told = build_parser().parse_args(arguments)
    assert (told.host, told.port, told.log_format) == ("0.0.0.0", 8000, "json")


def test_the_containers_command_is_one_that_the_parser_takes():
    """The same, for whoever builds an image."""
    line = re.search(r"^ENTRYPOINT (\[.*\])$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    assert line is not None
    program, *arguments = json.loads(line[1])
    assert program == "deps-serve"
    assert build_parser().parse_args(arguments).repository == Path("/bundles")


def test_the_container_copies_every_package():
    """A folder that is missing would fail the build, or leave a command out."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    folders = {path.split("/")[0] for path in told.values()}
    copied = set(re.findall(r"^COPY (\w+) \1$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE))
    assert copied == folders
