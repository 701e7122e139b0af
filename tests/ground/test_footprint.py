"""Memory is what the kernel counts: the peak also of what was freed again, and a reason where nothing can be read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deps.ground import footprint
from deps.ground.errors import DepsError
from deps.ground.footprint import gpu_used_bytes, measure_fresh

MEGABYTE = 1 << 20

WORK = """
import json
import numpy as np
from deps.ground.footprint import measure
np.ones(60 << 17)  # 60 MB, freed before: no part of what follows
def work():
    np.ones(40 << 17)  # 40 MB, gone at once
    return np.ones(10 << 17)  # 10 MB that stay
print(json.dumps(measure(work).to_dict()))
"""


def test_peak_counts_what_was_freed_and_nothing_from_before() -> None:
    """A model needs its peak once, while it loads; a device without that much kills the process."""
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    if found["peak_bytes"] is None:
        pytest.skip(f"this system tells no memory: {found['reason']}")
    assert 9.5 * MEGABYTE < found["resident_bytes"] < 12 * MEGABYTE
    assert found["gpu_bytes"] is None
    # Where the kernel lets no process reset its peak, the 60 MB from before hide it.
    assert found["peak_bytes"] < 52 * MEGABYTE
    if Path("/proc/self/clear_refs").exists():
        assert found["peak_bytes"] > 39 * MEGABYTE


def test_a_failed_process_tells_its_last_line(tmp_path: Path) -> None:
    """A traceback in another process is no answer, and no reason is none either."""
    with pytest.raises(DepsError, match=r"in a process of its own: .*No module named"):
        measure_fresh("deps.nothing.of.the.kind", [])


def test_gpu_memory_is_bytes_or_a_reason(tmp_path: Path) -> None:
    """The driver speaks of MiB; an error of its program must not become a number."""
    program = tmp_path / "smi"
    program.write_text("#!/bin/sh\necho 512\n")
    program.chmod(0o755)
    assert gpu_used_bytes(str(program)) == 512 * MEGABYTE
    program.write_text("#!/bin/sh\necho '[N/A]'\n")
    assert "tells no memory" in str(gpu_used_bytes(str(program)))
    assert "no nvidia-smi" in str(gpu_used_bytes(str(tmp_path / "none")))


def test_systems_without_proc_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is guessed where there is no kernel to ask."""
    monkeypatch.setattr(footprint, "PROC", tmp_path)
    found = footprint.measure(lambda: None)
    assert (found.peak_bytes, found.resident_bytes) == (None, None)
    assert "no /proc/self/status" in found.reason
