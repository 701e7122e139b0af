"""How much memory a stretch of work took: resident memory at its peak and after it, and memory of a GPU.

Relies on Linux's ``/proc`` and on ``nvidia-smi``; what cannot be read is None, with the reason. Memory that a process
has freed once is reused in silence, so what is to be compared belongs into a fresh process each: ``measure_fresh``.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deps.ground.errors import DepsError

PROC = Path("/proc/self")
KEPT: list[Any] = []
"""What the measured work returned: it must live until its memory has been read."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What some work added to the memory of its process, and to that of the GPU."""

    peak_bytes: int | None
    """The most resident memory at any moment, above what there was before (VmHWM)."""

    resident_bytes: int | None
    """Resident memory afterwards, above what there was before (VmRSS)."""

    gpu_bytes: int | None
    """What the driver says is used on the GPU, after less before, a context that had to be made included; None without
    a GPU."""

    reason: str = ""
    """Why something is None; empty when nothing is."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def measure(work: Callable[[], Any], *, gpu: bool = False) -> Footprint:
    """Run ``work`` and return what it added to the memory of this process; its result is kept alive.

    Args:
        work: what is measured, such as loading a model and running it.
        gpu: whether it uses a GPU.
    """
    gpu_before = gpu_used_bytes() if gpu else ""
    gc.collect()
    _trim()
    _forget_peak()
    before = _status()
    # Where the peak cannot be forgotten, an old one may hide the new: then a peak below it is all that is seen.
    start = before.get("VmHWM") if before.get("VmHWM", 0) > 1.02 * before.get("VmRSS", 0) else before.get("VmRSS")
    KEPT.append(work())
    after = _status()
    gpu_after = gpu_used_bytes() if gpu else ""
    reasons = [value for value in dict.fromkeys((gpu_before, gpu_after)) if isinstance(value, str) and value]
    is_known = "VmHWM" in after and start is not None
    if not is_known:
        reasons.append("this system has no /proc/self/status")
    return Footprint(
        peak_bytes=after["VmHWM"] - start if is_known and start is not None else None,
        resident_bytes=after["VmRSS"] - before["VmRSS"] if is_known else None,
        gpu_bytes=gpu_after - gpu_before if isinstance(gpu_before, int) and isinstance(gpu_after, int) else None,
        reason="; ".join(reasons),
    )


def measure_fresh(module: str, arguments: Sequence[str], *, timeout_seconds: float = 300) -> Footprint:
    """Return the footprint that a module prints as JSON when it runs as a program of its own.

    Raises:
        DepsError: it failed; the message holds its last line.
    """
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=True)
        return Footprint(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        raise DepsError(f"memory could not be measured in a process of its own: {last}") from error
    except (OSError, subprocess.TimeoutExpired, ValueError, TypeError, IndexError) as error:
        raise DepsError(f"memory could not be measured in a process of its own: {error}") from error


def gpu_used_bytes(program: str = "nvidia-smi") -> int | str:
    """Return the memory that is in use on the first GPU, by the driver; or why it cannot be told."""
    path = shutil.which(program)
    if path is None:
        return "there is no nvidia-smi (a Jetson's GPU shares the memory of the processor)"
    command = [path, "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return int(done.stdout.split()[0]) << 20
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        return f"nvidia-smi tells no memory: {error}"


def _status() -> dict[str, int]:
    """Return the memory lines of this process's status, in bytes."""
    try:
        text = (PROC / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    return {name: int(kilobytes) << 10 for name, kilobytes in re.findall(r"^(Vm\w+):\s+(\d+) kB", text, re.MULTILINE)}


def _forget_peak() -> None:
    """Have the kernel count the peak of resident memory from now on; not all systems let us."""
    try:
        (PROC / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _trim() -> None:
    """Give freed memory back to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
