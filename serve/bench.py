"""Measure a bundle on this device: latency and throughput of each subnet and precision, batch by batch.

Relies on the engines alone, without a server. Every number is over single timed calls after a warm-up, median and 95th
percentile; what cannot run here is listed with its reason.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deps.ground.console import Story, text_table
from deps.ground.errors import EngineError
from deps.ground.provenance import provenance
from deps.ground.units import format_ms
from deps.serve.bundle import Bundle
from deps.serve.choose import load_engine
from deps.serve.engines.base import Engine
from deps.serve.manifest import Backend, SubnetEntry
from deps.serve.targets import Target

WARM_UP_SHARE = 0.25
MIN_CALLS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """One subnet, precision and batch."""

    subnet: str
    precision: str
    engine: str
    batch: int
    calls: int
    median_ms: float
    p95_ms: float
    images_per_s: float
    """From the median."""


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All that was measured, and what was not."""

    bundle: str
    num_threads: int | None
    timings: list[Timing]
    left_out: list[str]

    def to_text(self) -> str:
        """Return a table for a person."""
        header = ("subnet", "precision", "engine", "batch", "median", "p95", "images/s")
        rows = [
            (
                timing.subnet,
                timing.precision,
                timing.engine,
                str(timing.batch),
                format_ms(timing.median_ms),
                format_ms(timing.p95_ms),
                f"{timing.images_per_s:,.0f}",
            )
            for timing in self.timings
        ]
        return "\n".join([text_table(header, rows), *(f"left out: {reason}" for reason in self.left_out)])

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "bundle": self.bundle,
            "num_threads": self.num_threads,
            "timings": [asdict(timing) for timing in self.timings],
            "left_out": self.left_out,
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
    """
    timings: list[Timing] = []
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
        timings += [time_engine(engine, batch, bundle.manifest.input.shape, seconds) for batch in fitting]
        engine.close()
    return BenchReport(str(bundle.folder), num_threads, timings, left_out)


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


def time_engine(engine: Engine, batch: int, shape: tuple[int, int, int], seconds: float) -> Timing:
    """Time single calls of one batch size, each from images in memory to logits in memory."""
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
    spent_ms = calls_for(seconds)
    median_ms = float(np.median(spent_ms))
    return Timing(
        subnet=engine.subnet,
        precision=engine.precision,
        engine=engine.name,
        batch=batch,
        calls=len(spent_ms),
        median_ms=median_ms,
        p95_ms=float(np.percentile(spent_ms, 95)),
        images_per_s=1e3 * batch / median_ms,
    )
