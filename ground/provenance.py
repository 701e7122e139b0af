"""Where a result came from: commit, versions, machine, time; written beside every run, table and bundle.

Relies on the metadata of what is installed; an absent package is left out, never guessed.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deps.ground.console import deps_version

PACKAGES = ("torch", "torchvision", "numpy", "onnx", "onnxruntime", "tensorrt", "tensorrt-rtx", "fvcore")


def commit() -> str | None:
    """Return the commit of the source tree, with ``+`` when it was altered; None outside a git checkout."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        command = ["git", "-C", str(here), *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, env=environment
        ).stdout.strip()

    try:
        # An installed wheel may lie inside somebody else's checkout, whose commit says nothing of us.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def packages() -> dict[str, str]:
    """Return the versions of the packages that results depend on, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def now() -> str:
    """Return the present time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def provenance() -> dict[str, Any]:
    """Return what a reader needs to make the same result again."""
    return {
        "deps": deps_version(),
        "commit": commit(),
        "time": now(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "packages": packages(),
    }
