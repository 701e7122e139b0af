"""Joules are read where the system shows them, and are None, with a reason, where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from deps.ground.energy import EnergyMeter, PowerSensor, RaplCounters, jetson_sensor, nvidia_sensor, rapl_counters


def zone(root: Path, folder: str, name: str, microjoules: int = 0, limit: int = 999) -> Path:
    """One zone of the powercap tree, as the kernel shows it."""
    path = root / "class" / "powercap" / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{limit}\n")
    return path


def rail(root: Path, chip: str, channel: int, label: str, millivolts: int, milliamperes: int) -> None:
    """One channel of an INA3221, as the kernel shows it."""
    folder = root / "bus" / "i2c" / "drivers" / "ina3221" / chip / "hwmon" / "hwmon3"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"in{channel}_label").write_text(f"{label}\n")
    (folder / f"in{channel}_input").write_text(f"{millivolts}\n")
    (folder / f"curr{channel}_input").write_text(f"{milliamperes}\n")


def gpu(folder: Path, script: str) -> str:
    """A program in the place of nvidia-smi."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def test_rapl_counts_packages_and_memory_once(tmp_path: Path):
    """Cores are part of their package, and a second interface counts the same joules again."""
    zone(tmp_path, "intel-rapl:0", "package-0")
    zone(tmp_path, "intel-rapl:0:0", "core")
    zone(tmp_path, "intel-rapl:0:1", "dram")
    zone(tmp_path, "intel-rapl:1", "psys")
    zone(tmp_path, "intel-rapl-mmio:0", "package-0")
    counters = rapl_counters(tmp_path)
    assert isinstance(counters, RaplCounters)
    assert [path.name for path in counters.zones] == ["intel-rapl:0", "intel-rapl:0:1"]


def test_a_counter_that_wraps_around_loses_nothing(tmp_path: Path):
    """A busy server passes the end of its counter every few minutes."""
    path = zone(tmp_path, "intel-rapl:0", "package-0", microjoules=900)
    counters = RaplCounters([path])
    (path / "energy_uj").write_text("950\n")
    assert counters.joules() == pytest.approx(50e-6)
    (path / "energy_uj").write_text("150\n")
    assert counters.joules() == pytest.approx(250e-6)


def test_power_is_added_up_by_the_trapezoid_rule():
    """10 W, then 20 W two seconds later, then 20 W for one more."""
    readings, times = iter([10.0, 20.0, 20.0]), iter([5.0, 7.0, 8.0])
    sensor = PowerSensor("test", lambda: next(readings), lambda: next(times))
    assert sensor.joules() == pytest.approx(30.0)
    assert sensor.joules() == pytest.approx(50.0)


def test_a_jetson_is_read_at_its_input_or_else_at_all_rails_that_are_not_parts_of_others(tmp_path: Path):
    """VDD_IN carries everything on an Orin Nano; an AGX Orin has no such rail."""
    rail(tmp_path / "nano", "1-0040", 1, "VDD_IN", 5000, 2000)
    rail(tmp_path / "nano", "1-0040", 2, "VDD_CPU_GPU_CV", 5000, 1000)
    nano = jetson_sensor(tmp_path / "nano")
    assert nano is not None
    assert nano.watts() == 10.0
    rail(tmp_path / "agx", "1-0040", 1, "VDD_GPU_SOC", 20000, 500)
    rail(tmp_path / "agx", "1-0040", 2, "VDD_CPU_CV", 20000, 100)
    rail(tmp_path / "agx", "1-0040", 3, "VIN_SYS_5V0", 5000, 1000)
    rail(tmp_path / "agx", "1-0041", 2, "VDDQ_VDD2_1V8AO", 5000, 400)
    agx = jetson_sensor(tmp_path / "agx")
    assert agx is not None
    assert agx.watts() == 17.0
    assert EnergyMeter.best(root=tmp_path / "agx").source == "ina3221"


def test_the_power_of_all_visible_gpus_is_summed(tmp_path: Path, monkeypatch):
    """A process that may use two cards pays for two."""
    sensor = nvidia_sensor(gpu(tmp_path, "printf '100.5\\n200.25\\n'"))
    assert isinstance(sensor, PowerSensor)
    assert sensor.watts() == 300.75
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    chosen = nvidia_sensor(gpu(tmp_path, 'case "$*" in *--id=1*) echo 7;; *) echo 300;; esac'))
    assert isinstance(chosen, PowerSensor)
    assert chosen.watts() == 7


@pytest.mark.parametrize("script", ["echo '[N/A]'", "exit 9"])
def test_a_gpu_that_tells_no_power_is_named_as_the_reason(tmp_path: Path, script: str):
    """Old cards and broken drivers must not end a training."""
    reason = nvidia_sensor(gpu(tmp_path, script))
    assert isinstance(reason, str)
    assert "tells no power" in reason


def test_a_block_is_measured_from_its_beginning_to_its_end(tmp_path: Path, monkeypatch):
    """What was spent before and after belongs to others."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    path = zone(tmp_path, "intel-rapl:0", "package-0", microjoules=5_000_000, limit=10**12)
    meter = EnergyMeter.best(root=tmp_path)
    assert meter.source == "rapl"
    assert "no nvidia-smi" in meter.reason
    (path / "energy_uj").write_text("6000000\n")
    with meter:
        (path / "energy_uj").write_text("8000000\n")
        assert meter.joules == pytest.approx(2.0)
        (path / "energy_uj").write_text("9000000\n")
    (path / "energy_uj").write_text("99000000\n")
    assert meter.joules == pytest.approx(3.0)


def test_a_sensor_that_fails_half_way_gives_none_and_not_half_a_sum(tmp_path: Path, monkeypatch):
    """A driver that is reset must neither end the work nor leave a wrong number."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    path = zone(tmp_path, "intel-rapl:0", "package-0")
    with EnergyMeter.best(root=tmp_path) as meter:
        (path / "energy_uj").write_text("gone\n")
    assert meter.joules is None
    assert "failed" in meter.reason


def test_where_nothing_can_be_read_the_answer_is_none_with_the_reason(tmp_path: Path, monkeypatch):
    """As in most containers."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with EnergyMeter.best(root=tmp_path) as meter:
        pass
    assert meter.joules is None
    assert meter.source == "none"
    assert "RAPL" in meter.reason
