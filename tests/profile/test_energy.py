"""Energy is divided by all images that it was spent on, and is absent where nothing can be read."""

from __future__ import annotations

import pytest

from deps.ground.energy import EnergyMeter
from deps.profile.energy import Energy, NetEnergy, ToMeter, idle_watts, joules_per_image, metered


class Furnace:
    """A device that takes three joules a run and ten watts at rest, on a clock of its own."""

    name = "furnace"

    def __init__(self) -> None:
        self.seconds, self.spent = 0.0, 0.0

    def run(self) -> None:
        self.seconds += 0.25
        self.spent += 3.0

    def rest(self, seconds: float) -> None:
        self.seconds += seconds
        self.spent += 10 * seconds

    def joules(self) -> float:
        return self.spent

    def clock(self) -> float:
        return self.seconds

    def close(self) -> None:
        self.seconds += 1


class Broken:
    """A sensor that can be asked once, when a block begins."""

    name = "broken"

    def __init__(self) -> None:
        self.asked = 0

    def joules(self) -> float:
        self.asked += 1
        if self.asked > 1:
            raise OSError("gone")
        return 0.0


def test_joules_are_those_of_the_metered_runs_by_image() -> None:
    """Warming up costs energy too, which no image should pay for."""
    furnace = Furnace()
    found = joules_per_image(furnace.run, 4, EnergyMeter([furnace]), seconds=2, clock=furnace.clock)
    assert found == (pytest.approx(0.75), 8)


def test_idle_watts_are_joules_by_seconds() -> None:
    """Whoever compares two boards takes them off."""
    furnace = Furnace()
    meter = EnergyMeter([furnace])
    assert idle_watts(meter, seconds=3, clock=furnace.clock, sleep=furnace.rest) == pytest.approx(10)


def test_without_a_sensor_there_is_no_number() -> None:
    """A zero would be read as thrift."""
    meter = EnergyMeter([], reason="this processor shows no RAPL counters")
    assert joules_per_image(lambda: None, 1, meter, seconds=0) is None
    assert idle_watts(meter, seconds=0) is None
    nothing = Energy("none", meter.reason, None, ())
    assert nothing.to_text() == "not measured: this processor shows no RAPL counters"
    told = Energy("ina3221", "", 4.0, (NetEnergy(224, 10, 0.02, 9), NetEnergy(224, 20, 0.05, 9))).to_text()
    assert told == "0.02 to 0.05 J an image over 2 nets (ina3221, all that ran, idle 4 W)"


def test_a_sensor_that_fails_ends_the_metering_with_its_reason() -> None:
    """What was read before it failed stays; nothing is made up for the rest."""
    furnace = Furnace()
    meter = EnergyMeter([furnace])

    def load_once() -> Furnace:
        return furnace

    def load_and_break() -> Furnace:
        meter.sources = [Broken()]
        return furnace

    nets = [ToMeter(224, 100, load_once), ToMeter(224, 200, load_and_break), ToMeter(224, 300, load_once)]
    found = metered(nets, 1, meter, seconds=1, clock=furnace.clock, sleep=furnace.rest)
    assert [net.flops for net in found.nets] == [100]
    assert found.nets[0].joules_per_image == pytest.approx(3)
    assert found.idle_watts == pytest.approx(10)
    assert found.source == "furnace"
    assert "a sensor failed" in found.reason


def test_nothing_is_loaded_where_nothing_can_be_read() -> None:
    """Building an engine takes minutes on a board, for nothing."""

    def load() -> Furnace:
        raise AssertionError("loaded")

    found = metered([ToMeter(8, 1, load)], 1, EnergyMeter([], reason="no sensor"))
    assert found == Energy("none", "no sensor", None, ())
