"""How many joules a stretch of work took, from the counters and sensors that this machine lets us read.

Relies on Linux: RAPL counters of processors, ``nvidia-smi`` for GPUs, INA3221 sensors of a Jetson. What is measured is
the package, the card or the board, whatever else ran on it; where nothing can be read the answer is None, with the
reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

SYSFS = Path("/sys")
TOTAL_RAILS = ("VDD_IN", "VIN", "POM_5V_IN")
"""Rails of a Jetson that carry all that the module draws; where there is one the others are parts of it."""

PARTIAL_RAILS = ("VDDQ_VDD2_1V8AO", "NC", "")
"""Rails behind another monitored one (AGX Orin), and unconnected channels."""


class EnergySource(Protocol):
    """Something that knows the energy spent since it was made."""

    @property
    def name(self) -> str:
        """What is read, for the record."""
        ...

    def joules(self) -> float:
        """Return the joules so far; to be called every second or so, since counters wrap around."""
        ...


class RaplCounters:
    """The energy counters of processor packages and their memory (``/sys/class/powercap``)."""

    name = "rapl"

    def __init__(self, zones: Sequence[Path]) -> None:
        self.zones = list(zones)
        self.ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in zones]
        self.last = [self._microjoules(zone) for zone in zones]
        self.total = 0

    @staticmethod
    def _microjoules(zone: Path) -> int:
        return int((zone / "energy_uj").read_text())

    def joules(self) -> float:
        """Return the joules so far; a counter that went down has wrapped around once."""
        for i, zone in enumerate(self.zones):
            now = self._microjoules(zone)
            self.total += (now - self.last[i]) % (self.ranges[i] + 1)
            self.last[i] = now
        return self.total / 1e6


class PowerSensor:
    """Watts, read now and then, and added up over time by the trapezoid rule."""

    def __init__(self, name: str, watts: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.watts, self.clock = name, watts, clock
        self.last, self.at, self.total = watts(), clock(), 0.0

    def joules(self) -> float:
        """Return the joules so far."""
        watts, at = self.watts(), self.clock()
        self.total += (watts + self.last) / 2 * (at - self.at)
        self.last, self.at = watts, at
        return self.total


class EnergyMeter:
    """Measures a ``with`` block; ``joules`` may be asked for inside it and after it.

    A thread reads the sources every ``period_seconds``: counters would wrap around, power would change unseen.
    """

    def __init__(self, sources: Sequence[EnergySource], *, reason: str = "", period_seconds: float = 0.5) -> None:
        self.sources = list(sources)
        self.reason = reason
        """Why nothing, or not everything, is measured; empty when there is nothing to say."""

        self.period_seconds = period_seconds
        self._before = 0.0
        self._now: float | None = 0.0 if self.sources else None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def best(cls, *, root: Path = SYSFS, period_seconds: float = 0.5) -> EnergyMeter:
        """Return a meter of all that can be read here.

        Args:
            root: where sysfs is mounted.
            period_seconds: time between two readings.
        """
        jetson = jetson_sensor(root)
        if jetson is not None:
            return cls([jetson], period_seconds=period_seconds)  # the board's input, processor and GPU included
        sources: list[EnergySource] = []
        reasons = []
        for found in (rapl_counters(root), nvidia_sensor()):
            if isinstance(found, str):
                reasons.append(found)
            else:
                sources.append(found)
        return cls(sources, reason="; ".join(reasons), period_seconds=period_seconds)

    @property
    def source(self) -> str:
        """What is read, such as ``rapl + nvidia-smi``; ``none`` when nothing can be."""
        return " + ".join(source.name for source in self.sources) or "none"

    @property
    def joules(self) -> float | None:
        """Joules since the block began, up to now or to its end; None when nothing can be read."""
        if self._thread is not None:
            self._read()
        return self._now

    def __enter__(self) -> EnergyMeter:
        if self.sources:
            self._before = sum(source.joules() for source in self.sources)
            self._now = 0.0
            self._stop.clear()
            self._thread = threading.Thread(target=self._watch, name="energy", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._read()
            self._thread = None

    def _watch(self) -> None:
        while not self._stop.wait(self.period_seconds):
            self._read()

    def _read(self) -> None:
        with self._lock:
            if not self.sources:
                return
            try:
                self._now = sum(source.joules() for source in self.sources) - self._before
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                # A sensor that fails in the middle would leave a sum that means nothing.
                self.sources, self._now = [], None
                self.reason = f"a sensor failed while it was read: {error}"


def rapl_counters(root: Path = SYSFS) -> RaplCounters | str:
    """Return the counters of all packages and their memory, or why there are none."""
    zones = []
    for zone in sorted((root / "class" / "powercap").glob("*-rapl*:*")):
        try:
            name = (zone / "name").read_text().strip()
        except OSError:
            continue
        # Cores and graphics are parts of their package, and psys (the whole board) holds all of them again; the
        # memory-mapped twin of the interface counts the same energy a second time.
        if (name.startswith("package") or name == "dram") and "mmio" not in zone.name:
            zones.append(zone)
    if not zones:
        return "this processor shows no RAPL counters"
    try:
        return RaplCounters(zones)
    except PermissionError:
        return "the RAPL counters are readable by root only; as root: chmod a+r /sys/class/powercap/*/energy_uj"
    except (OSError, ValueError) as error:
        return f"the RAPL counters cannot be read: {error}"


def nvidia_sensor(program: str = "nvidia-smi") -> PowerSensor | str:
    """Return the power of the GPUs that this process may use, or why it cannot be read."""
    path = shutil.which(program)
    if path is None:
        return "there is no nvidia-smi"
    command = [path, "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if visible:
        command.append(f"--id={visible}")

    def watts() -> float:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return sum(float(line) for line in done.stdout.split())

    try:
        return PowerSensor("nvidia-smi", watts)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return f"nvidia-smi tells no power: {error}"


def jetson_sensor(root: Path = SYSFS) -> PowerSensor | None:
    """Return the power that a Jetson's module draws, from its INA3221 sensors; None on other machines."""
    rails: dict[str, tuple[Path, Path]] = {}
    for label in sorted((root / "bus" / "i2c" / "drivers" / "ina3221").glob("*/hwmon/hwmon*/in*_label")):
        channel = label.name.removeprefix("in").removesuffix("_label")
        volts, amperes = label.with_name(f"in{channel}_input"), label.with_name(f"curr{channel}_input")
        if volts.exists() and amperes.exists():
            rails[label.read_text().strip()] = (volts, amperes)
    total = [rails[name] for name in TOTAL_RAILS if name in rails][:1]
    used = total or [files for name, files in rails.items() if name not in PARTIAL_RAILS]
    if not used:
        return None

    def watts() -> float:
        # hwmon tells millivolts and milliamperes.
        return sum(int(volts.read_text()) * int(amperes.read_text()) for volts, amperes in used) / 1e6

    try:
        return PowerSensor("ina3221", watts)
    except (OSError, ValueError):
        return None
