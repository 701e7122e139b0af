"""``docs/spaces.md``: its pictures and tables are what the code draws, and its examples run."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from pathlib import Path

from deps.supernet import Supernet, get_space, space_names

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "spaces.md"


def test_pictures_and_tables_are_fresh():
    result = subprocess.run(
        [sys.executable, ROOT / "docs" / "draw_spaces.py", "--check"], capture_output=True, text=True, timeout=100
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_every_space_has_a_picture_with_a_box_for_every_block():
    for name in space_names():
        picture = ET.parse(ROOT / "docs" / "spaces" / f"{name}.svg")
        boxes = [box for box in picture.iter("{http://www.w3.org/2000/svg}rect") if box.get("rx")]
        assert len(boxes) > len(get_space(name).blocks)


def test_the_examples_run(tmp_path, monkeypatch):
    """Someone copies them first of all."""
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"(?:^    .*\n|^\n(?=    ))+", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    code = [textwrap.dedent(example) for example in examples if "import" in example]
    assert len(code) == 2
    for example in code:
        exec(compile(example, str(PAGE), "exec"), {})
    assert Supernet.load(tmp_path / "runs" / "tiny-mobile").space.name == "tiny-mobile"
