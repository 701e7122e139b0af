"""Joules an image of whole nets, where the platform lets us read energy: what a latency table tells beside times.

Relies on ``deps.ground.energy`` for the meter and on numpy alone otherwise. What is metered is the package, the card
or the board, whatever else ran on it, so the watts of the idle machine are told too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from deps.ground.energy import EnergyMeter

WARM_UP_RUNS = 3
SECONDS = 2.0
"""How long each net runs: several readings of a sensor that is read twice a second."""


@dataclass(frozen=True, slots=True)
class NetEnergy:
    """What one whole net took."""

    resolution: int
    flops: int
    joules_per_image: float
    runs: int


@dataclass(frozen=True, slots=True)
class Energy:
    """What nets of a session took, or why nobody knows."""

    source: str
    """What was read, such as ``ina3221``; ``none`` where nothing can be."""

    reason: str
    """Why nothing, or not everything, was read; empty when there is nothing to say."""

    idle_watts: float | None
    """Of the machine at rest, by the same source."""

    nets: tuple[NetEnergy, ...]

    def to_text(self) -> str:
        """Return one line for a person."""
        if not self.nets:
            return f"not measured: {self.reason or 'no net was metered'}"
        low, high = min(net.joules_per_image for net in self.nets), max(net.joules_per_image for net in self.nets)
        idle = "" if self.idle_watts is None else f", idle {self.idle_watts:.3g} W"
        return f"{low:.3g} to {high:.3g} J an image over {len(self.nets)} nets ({self.source}, all that ran{idle})"


class Runnable(Protocol):
    """A loaded net; every backend's nets are."""

    def run(self) -> None:
        """Run once and wait for the result."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


@dataclass(frozen=True, slots=True)
class ToMeter:
    """A net that is loaded when its turn comes."""

    resolution: int
    flops: int
    load: Callable[[], Runnable]


def metered(
    nets: Sequence[ToMeter],
    batch: int,
    meter: EnergyMeter,
    *,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Energy:
    """Run each net for a while under the meter; where nothing can be read, none is even loaded.

    Args:
        nets: what runs, one after another.
        batch: images of a run.
        meter: reads the energy.
        seconds: how long each net runs, and how long the machine rests before.
        clock: in seconds.
        sleep: rests for so many seconds.
    """
    if meter.source == "none":
        return Energy("none", meter.reason, None, ())
    source = meter.source
    idle = idle_watts(meter, seconds=seconds, clock=clock, sleep=sleep)
    found = []
    for net in nets:
        loaded = net.load()
        try:
            result = joules_per_image(loaded.run, batch, meter, seconds=seconds, clock=clock)
        finally:
            loaded.close()
        if result is None:
            break
        found.append(NetEnergy(net.resolution, net.flops, *result))
    return Energy(source, meter.reason, idle, tuple(found))


def joules_per_image(
    run: Callable[[], None],
    batch: int,
    meter: EnergyMeter,
    *,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[float, int] | None:
    """Return the joules an image and the number of runs, or None where the meter cannot tell.

    Args:
        run: one run of the net, finished when it returns.
        batch: images of a run.
        meter: reads the energy.
        seconds: how long the net runs.
        clock: in seconds.
    """
    for _ in range(WARM_UP_RUNS):
        run()
    runs = 0
    with meter:
        end = clock() + seconds
        while runs == 0 or clock() < end:
            run()
            runs += 1
    return None if meter.joules is None else (meter.joules / (runs * batch), runs)


def idle_watts(
    meter: EnergyMeter,
    *,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float | None:
    """Return the power of the machine while this process rests, or None where the meter cannot tell."""
    with meter:
        start = clock()
        sleep(seconds)
        spent = clock() - start
    return None if meter.joules is None else meter.joules / spent
