"""Measure a bundle on this device: latency and throughput of each subnet and precision, batch by batch.

Relies on the engines alone, without a server. Every number is over single timed calls after a warm-up, median and 95th
percentile; what cannot run here is listed with its reason.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from deps.ground.console import Story, text_table
from deps.ground.energy import EnergyMeter
from deps.ground.errors import EngineError
from deps.ground.footprint import Footprint
from deps.ground.provenance import provenance
from deps.ground.units import format_bytes, format_ms
from deps.serve.bundle import Bundle
from deps.serve.choose import load_engine
from deps.serve.engines.base import Engine
from deps.serve.footprint import engine_footprint
from deps.serve.manifest import SCHEMA_VERSION, Backend, Latency, Manifest, SubnetEntry, write_manifest
from deps.serve.targets import Target

WARM_UP_SHARE = 0.25
MIN_CALLS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """One subnet, precision and batch."""

    subnet: str
    precision: str
    backend: Backend
    engine: str
    """The backend with its version."""

    batch: int
    calls: int
    median_ms: float
    p95_ms: float
    images_per_s: float
    """From the median."""

    joules_per_image: float | None = None
    """Energy of the machine, or of what of it can be read, whatever else ran; None where nothing can be read."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """What one engine adds to a fresh process, at the largest batch."""

    subnet: str
    precision: str
    engine: str
    batch: int
    footprint: Footprint


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All that was measured, and what was not."""

    bundle: str
    num_threads: int | None
    timings: list[Timing]
    left_out: list[str]
    energy: str
    """What the joules come from, or why there are none."""

    memory: list[EngineMemory]
    """What each engine needs; empty where it was not asked."""

    def to_text(self) -> str:
        """Return a table for a person."""
        header = ("subnet", "precision", "engine", "batch", "median", "p95", "images/s", "J/image")
        rows = [
            (
                timing.subnet,
                timing.precision,
                timing.engine,
                str(timing.batch),
                format_ms(timing.median_ms),
                format_ms(timing.p95_ms),
                f"{timing.images_per_s:,.0f}",
                "-" if timing.joules_per_image is None else f"{timing.joules_per_image:.3g}",
            )
            for timing in self.timings
        ]
        left_out = [f"left out: {reason}" for reason in self.left_out]
        parts = [text_table(header, rows), *left_out, f"energy: {self.energy}"]
        return "\n".join([*parts, *(["", self._memory_text()] if self.memory else [])])

    def _memory_text(self) -> str:
        header = ("subnet", "precision", "engine", "batch", "peak memory", "afterwards", "GPU memory")
        rows = [
            (
                one.subnet,
                one.precision,
                one.engine,
                str(one.batch),
                *(
                    "-" if size is None else format_bytes(max(0, size))
                    for size in (one.footprint.peak_bytes, one.footprint.resident_bytes, one.footprint.gpu_bytes)
                ),
            )
            for one in self.memory
        ]
        reasons = {one.footprint.reason for one in self.memory if one.footprint.reason}
        return "\n".join([text_table(header, rows), *sorted(f"memory: {reason}" for reason in reasons)])

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "bundle": self.bundle,
            "num_threads": self.num_threads,
            "timings": [asdict(timing) for timing in self.timings],
            "left_out": self.left_out,
            "energy": self.energy,
            "memory": [asdict(one) for one in self.memory],
            "provenance": provenance(),
        }


def bench_bundle(
    bundle: Bundle,
    target: Target,
    story: Story,
    *,
    subnets: list[SubnetEntry],
    batches: list[int],
    seconds: float = 1.0,
    num_threads: int | None = None,
    with_memory: bool = False,
) -> BenchReport:
    """Measure every file of the subnets on every backend of the target that may run it.

    Args:
        bundle: an opened bundle.
        target: says which backends to try.
        story: told what is being measured.
        subnets: what to measure.
        batches: batch sizes.
        seconds: how long each batch size is timed, after a quarter as long of warm-up.
        num_threads: threads of ONNX Runtime; all cores but one when None.
        with_memory: whether each engine is loaded once more, in a process of its own, to see what memory it needs.
    """
    meter = EnergyMeter.best()
    timings: list[Timing] = []
    memory: list[EngineMemory] = []
    left_out: list[str] = []
    runs: list[tuple[SubnetEntry, Backend, str]] = [
        (subnet, backend, model.precision)
        for subnet in subnets
        for backend in target.backends
        for model in subnet.models
        if backend in model.backends
    ]
    for subnet, backend, precision in story.track(runs, "measuring", total=len(runs), unit="engine"):
        try:
            engine = _load(bundle, target, subnet, backend, precision, max(batches), num_threads)
        except EngineError as error:
            left_out.append(f"{subnet.name} {precision} on {backend}: {error}")
            continue
        fitting = [batch for batch in batches if batch <= engine.max_batch]
        shape = bundle.manifest.input.shape
        timings += [time_engine(engine, backend, batch, shape, seconds, meter) for batch in fitting]
        engine.close()
        if with_memory and fitting:
            found = engine_footprint(
                bundle,
                target,
                subnet,
                precision=precision,
                backend=backend,
                batch=max(fitting),
                num_threads=num_threads,
            )
            memory.append(EngineMemory(subnet.name, precision, engine.name, max(fitting), found))
    return BenchReport(str(bundle.folder), num_threads, timings, left_out, _energy_text(meter), memory)


def _energy_text(meter: EnergyMeter) -> str:
    if meter.source == "none":
        return f"not measured: {meter.reason}"
    return f"{meter.source}, whatever else ran{'; ' + meter.reason if meter.reason else ''}"


def write_times(bundle: Bundle, target: Target, timings: Sequence[Timing]) -> Manifest:
    """Write medians into the bundle, where the server finds what its batches will take; other entries are kept.

    What ONNX Runtime took counts for ``cpu``, what TensorRT took for the target.

    Args:
        bundle: the bundle that was measured.
        target: the target it was measured for.
        timings: what was measured.

    Returns:
        The manifest as it was written.

    Raises:
        FileError: the bundle's folder cannot be written.
    """
    manifest = bundle.manifest
    subnets = []
    for subnet in manifest.subnets:
        latency = dict(subnet.latency)
        models = []
        for model in subnet.models:
            own = [timing for timing in timings if (timing.subnet, timing.precision) == (subnet.name, model.precision)]
            batch_ms, measured_ms = dict(model.batch_ms), dict(model.measured_ms)
            for timing in own:
                where = "cpu" if timing.backend == "onnxruntime" else target.name
                batch_ms[where] = {**batch_ms.get(where, {}), str(timing.batch): round(timing.median_ms, 4)}
                if timing.batch == 1:
                    measured_ms[where] = round(timing.median_ms, 4)
                    # The subnet's own entry tells of the file that is exact everywhere.
                    if model.precision == "fp32":
                        latency[where] = replace(latency.get(where, Latency()), measured_ms=measured_ms[where])
            models.append(replace(model, batch_ms=batch_ms, measured_ms=measured_ms))
        subnets.append(replace(subnet, models=tuple(models), latency=latency))
    manifest = replace(manifest, subnets=tuple(subnets), schema_version=SCHEMA_VERSION)
    write_manifest(bundle.folder, manifest)
    return manifest


def _load(
    bundle: Bundle,
    target: Target,
    subnet: SubnetEntry,
    backend: Backend,
    precision: str,
    max_batch: int,
    num_threads: int | None,
) -> Engine:
    loaded = load_engine(
        bundle, target, subnet, backend=backend, precision=precision, max_batch=max_batch, num_threads=num_threads
    )
    return loaded.engine


def time_engine(
    engine: Engine, backend: Backend, batch: int, shape: tuple[int, int, int], seconds: float, meter: EnergyMeter
) -> Timing:
    """Time single calls of one batch size, each from images in memory to logits in memory, and meter their energy."""
    images_NCHW = np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)

    def calls_for(duration: float) -> list[float]:
        spent: list[float] = []
        end = time.perf_counter() + duration
        while len(spent) < MIN_CALLS or time.perf_counter() < end:
            start = time.perf_counter()
            engine.infer(images_NCHW)
            spent.append(1e3 * (time.perf_counter() - start))
        return spent

    calls_for(WARM_UP_SHARE * seconds)
    with meter:
        spent_ms = calls_for(seconds)
    median_ms = float(np.median(spent_ms))
    return Timing(
        subnet=engine.subnet,
        precision=engine.precision,
        backend=backend,
        engine=engine.name,
        batch=batch,
        calls=len(spent_ms),
        median_ms=median_ms,
        p95_ms=float(np.percentile(spent_ms, 95)),
        images_per_s=1e3 * batch / median_ms,
        joules_per_image=None if meter.joules is None else meter.joules / (batch * len(spent_ms)),
    )
