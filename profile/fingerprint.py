"""What a device is and how its clocks are set: what a time depends on, and what two tables must share to be compared.

Relies on files that Linux, and a Jetson, show to everybody, and on ``nvidia-smi`` and ``nvpmodel`` where they are
installed; what is not told is left out, never guessed.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from deps.ground.provenance import cpu_name

_SYSTEM = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_JETSON = Path("/proc/device-tree/model")

_GPU_FIELDS = (
    "name",
    "driver_version",
    "persistence_mode",
    "power.limit",
    "clocks.max.sm",
    "clocks.applications.graphics",
)


def processor() -> dict[str, Any]:
    """Return the processor, and what limits its clock: facts that stay while nobody changes a setting."""
    facts: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    for name in ("scaling_governor", "scaling_min_freq", "scaling_max_freq"):
        value = _read(_SYSTEM / name)
        if value is not None:
            facts[name] = value
    if (board := _read(_JETSON)) is not None:
        facts["board"] = board
    if (mode := _power_mode()) is not None:
        facts["power_mode"] = mode
    return facts


def gpu() -> dict[str, Any]:
    """Return the GPU, its driver and the limits of its clocks, as ``nvidia-smi`` tells; empty where it does not."""
    text = _output(["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"])
    values = [value.strip() for value in (text or "").partition("\n")[0].split(",")]
    if len(values) != len(_GPU_FIELDS):
        return {}
    named = zip(_GPU_FIELDS, values, strict=True)
    return {f"gpu_{name.replace('.', '_')}": value for name, value in named if value.strip("[]") not in ("N/A", "")}


def state() -> dict[str, Any]:
    """Return what changes from minute to minute: clocks now, temperature, throttling, load."""
    facts: dict[str, Any] = {}
    clocks = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _read(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    if clocks:
        facts["cpu_mhz"] = round(max(map(float, clocks)))
    throttled = _read(Path("/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"))
    if throttled is not None:
        facts["core_throttle_count"] = int(throttled)
    zones = [_read(path) for path in sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp"))]
    degrees = [int(zone) / 1000 for zone in zones if zone is not None and zone.lstrip("-").isdigit()]
    if degrees:
        facts["hottest_celsius"] = max(degrees)
    fields = ("clocks.sm", "clocks.mem", "temperature.gpu", "clocks_throttle_reasons.active")
    text = _output(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"])
    values = [value.strip() for value in (text or "").partition("\n")[0].split(",")]
    if len(values) == len(fields):
        facts.update({f"gpu_{name.replace('.', '_')}": value for name, value in zip(fields, values, strict=True)})
    facts["load"] = [round(load, 2) for load in os.getloadavg()]
    return facts


def _power_mode() -> str | None:
    """Return the power mode of a Jetson, e.g. ``15W``."""
    text = _output(["nvpmodel", "-q"])
    found = re.search(r"NV Power Mode:\s*(\S+)", text or "")
    return found[1] if found else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\x00\n ") or None
    except OSError:
        return None


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
