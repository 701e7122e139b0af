"""The curl lines of the README and of docs/serving.md are run as they stand."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deps.serve.service import ServeOptions
from running import Running, running

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    line.strip()
    for page in ("README.md", "docs/serving.md")
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines()
    if line.startswith("    curl ")
]

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def server(make_bundle: Callable[..., Path]) -> Iterator[Running]:
    options = ServeOptions(subnet="large", max_batch=4, num_threads=1)
    with running(make_bundle(name="digits"), options=options) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the lines name."""
    folder = tmp_path_factory.mktemp("curl")
    pixels = np.random.default_rng(3).integers(0, 256, (1, 1, 8, 8), dtype=np.uint8)
    for name in ("seven.png", "digit.png"):
        Image.fromarray(pixels[0, 0]).save(folder / name)
    (folder / "image.u8").write_bytes(pixels.tobytes())
    (folder / "image.f32").write_bytes(pixels.astype("<f4").tobytes())
    tensor = {"name": "input", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.0] * 64}
    (folder / "request.json").write_text(json.dumps({"inputs": [tensor]}))
    return folder


def test_there_are_lines():
    """Or the next test would hold nothing."""
    assert len(LINES) >= 12


@pytest.mark.parametrize("line", LINES)
def test_curl_line_works(line: str, server: Running, folder: Path):
    """What people copy first."""
    line = re.sub(r"(127\.0\.0\.1|localhost):8000", server.address, line).replace("MODEL", "digits")
    command = [*shlex.split(line), "--silent", "--show-error", "--write-out", "%{stderr}%{http_code}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"200"), done.stdout
