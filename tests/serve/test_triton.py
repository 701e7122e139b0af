"""Triton itself answers the same questions the same way, but for what docs/triton.md lists with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ.get("DEPS_TRITON", "")


@pytest.mark.skipif(not ENVIRONMENT, reason="$DEPS_TRITON names no environment with nvidia-pytriton and onnxruntime")
def test_differences_from_triton_are_the_listed_ones(bundle_folder: Path, tmp_path: Path):
    """An oracle that nobody here wrote: a difference that we did not mean fails, and so does a stale page."""
    page = tmp_path / "triton.md"
    command = [sys.executable, str(ROOT / "benchmarks" / "protocol.py"), str(bundle_folder)]
    done = subprocess.run(
        [*command, "--triton", ENVIRONMENT, "--write", str(page)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert page.read_text() == (ROOT / "docs" / "triton.md").read_text()
