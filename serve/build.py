"""Build TensorRT engines for a bundle: on the device that shall run them, or for RTX anywhere.

Relies on ``engines/builder.py``; an engine that was built before from the same model, settings, versions and device is
kept, so the command can be run at every start of a device.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from deps.ground.console import Story, text_table
from deps.ground.errors import EngineError
from deps.ground.files import whole_file
from deps.ground.units import format_bytes, format_seconds
from deps.serve.bundle import Bundle
from deps.serve.engines.builder import BuildSettings, Progress, build_engine, engine_key, rtx_capabilities
from deps.serve.engines.cache import engine_path, find_engines, store_engine
from deps.serve.engines.cudart import load_cudart
from deps.serve.engines.header import read_header
from deps.serve.engines.runtimes import load_runtime
from deps.serve.manifest import BatchProfile, EngineFile, ModelFile, SubnetEntry
from deps.serve.records import plain_from_record
from deps.serve.targets import Target


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildPlan:
    """One engine that shall exist."""

    target: Target
    """Whose runtime and limits count."""

    subnet: str
    """Name of the subnet."""

    model: ModelFile
    """What is compiled."""

    settings: BuildSettings
    """Batch sizes and memory."""

    runtime_version: str
    """Of the TensorRT that is installed here."""

    device: str
    """GPU, driver and CUDA for an engine that runs only here; empty for one that travels."""

    @property
    def key(self) -> str:
        """Identity of the engine."""
        assert self.target.runtime is not None
        return engine_key(
            self.model.sha256,
            self.settings,
            runtime=self.target.runtime,
            runtime_version=self.runtime_version,
            device=self.device,
        )


@dataclass(frozen=True, slots=True)
class BuiltFile:
    """One line of the report."""

    file: EngineFile
    is_cached: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class BuildReport:
    """The engines that a bundle has now."""

    bundle: Path
    built: list[BuiltFile]

    def to_text(self) -> str:
        """Return a table for a person."""
        rows = [
            (
                entry.file.path,
                format_bytes(entry.file.size_bytes),
                "kept" if entry.is_cached else format_seconds(entry.seconds),
            )
            for entry in self.built
        ]
        return text_table(("engine", "size", "built in"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        engines = [
            {**plain_from_record(entry.file), "is_cached": entry.is_cached, "seconds": round(entry.seconds, 3)}
            for entry in self.built
        ]
        return {"bundle": str(self.bundle), "engines": engines}


def plan_build(
    target: Target, subnet: str, model: ModelFile, *, max_batch: int | None = None, optimization_level: int = 3
) -> BuildPlan:
    """Plan one engine with what is installed here; touches the GPU only to learn which one it is.

    Args:
        target: says which TensorRT, and how much memory.
        subnet: name of the subnet.
        model: an ONNX file for TensorRT.
        max_batch: largest batch; the target's when None.
        optimization_level: how long TensorRT looks for kernels, 0 to 5.

    Raises:
        EngineError: the target has no TensorRT, or its engines must be built on a GPU that is not here.
        MissingExtraError: the TensorRT that the target names is not installed.
    """
    if target.runtime is None:
        raise EngineError(
            f"target {target.name} has no TensorRT, so there is no engine to build; expected a target that has it; "
            "serve the bundle as it is, or name another with --target"
        )
    version = str(load_runtime(target.runtime).__version__)
    device, workspace = "", target.workspace_bytes
    if target.runtime == "tensorrt":
        cuda = load_cudart()
        workspace = capped_workspace(workspace, cuda.memory_bytes()[1])
        device = f"SM {cuda.compute_capability()}, driver {cuda.driver_version()}, CUDA {cuda.runtime_version()}"
    settings = BuildSettings(
        profile=BatchProfile(min=1, opt=1, max=max_batch or target.max_batch),
        precision=model.precision,
        workspace_bytes=workspace,
        optimization_level=optimization_level,
        compute_capabilities=rtx_capabilities(target.compute_capabilities) if target.runtime == "tensorrt_rtx" else (),
    )
    return BuildPlan(
        target=target, subnet=subnet, model=model, settings=settings, runtime_version=version, device=device
    )


def capped_workspace(wanted: int | None, memory_bytes: int) -> int:
    """Return how much scratch memory a build may take: what the target allows, and never half of the device.

    A Jetson shares its memory with everything else that runs there, and a build that takes it all is killed. The total
    counts, not what is free, so that the same device gives the same engine's key at every start.
    """
    half = memory_bytes // 2
    return half if wanted is None else min(wanted, half)


def build_planned(
    onnx: bytes, plan: BuildPlan, *, progress: Progress | None = None, timing_cache: bytes | None = None
) -> tuple[bytes, EngineFile, bytes | None]:
    """Compile one model and describe the engine as a manifest does.

    Returns:
        The engine's bytes, its record, and the timing cache to keep; nothing is written.

    Raises:
        EngineError: TensorRT cannot build it; the message says why.
    """
    assert plan.target.runtime is not None
    built = build_engine(onnx, plan.settings, runtime=plan.target.runtime, progress=progress, timing_cache=timing_cache)
    capabilities = read_header(built.engine).compute_capabilities or (load_cudart().compute_capability(),)
    record = EngineFile(
        path=engine_path(plan.subnet, plan.model.precision, plan.key),
        sha256=sha256(built.engine).hexdigest(),
        size_bytes=len(built.engine),
        built_from=plan.model.sha256,
        key=plan.key,
        subnet=plan.subnet,
        precision=plan.model.precision,
        runtime=plan.target.runtime,
        runtime_version=plan.runtime_version,
        profile=plan.settings.profile,
        compute_capabilities=capabilities,
    )
    return built.engine, record, built.timing_cache


def models_to_build(subnet: SubnetEntry, target: Target, precisions: list[str] | None = None) -> list[ModelFile]:
    """Return the files of a subnet that get an engine: those named, else the target's best that the bundle holds.

    Raises:
        EngineError: a named precision is not in the bundle, or not for TensorRT.
    """
    candidates = {str(model.precision): model for model in subnet.models if "tensorrt" in model.backends}
    if precisions:
        for precision in precisions:
            if precision not in candidates:
                known = ", ".join(candidates) or "none"
                raise EngineError(
                    f"subnet {subnet.name} has no {precision} file for TensorRT; expected {known}; change --precision"
                )
        return [candidates[precision] for precision in precisions]
    return [candidates[precision] for precision in target.precisions if precision in candidates][:1]


def build_bundle(
    bundle: Bundle,
    target: Target,
    story: Story,
    *,
    subnets: list[SubnetEntry] | None = None,
    precisions: list[str] | None = None,
    max_batch: int | None = None,
    optimization_level: int = 3,
) -> BuildReport:
    """Build what a bundle lacks; each engine appears whole with its record, or not at all.

    Raises:
        EngineError: no TensorRT for this target, no GPU, or a model TensorRT cannot build.
        MissingExtraError: TensorRT is not installed.
        FileError: the bundle's folder cannot be written.
    """
    plans = [
        plan_build(target, subnet.name, model, max_batch=max_batch, optimization_level=optimization_level)
        for subnet in subnets or bundle.manifest.subnets
        for model in models_to_build(subnet, target, precisions)
    ]
    if not plans:
        raise EngineError(
            f"{bundle.folder} holds no model for TensorRT; expected one of {', '.join(target.precisions)}; "
            "make the bundle again for this target"
        )
    found = find_engines(bundle)
    for complaint in found.complaints:
        story.warn(complaint)
    present = {engine.key: engine for engine in found.engines}
    built = []
    for number, plan in enumerate(plans, start=1):
        if plan.key in present:
            built.append(BuiltFile(present[plan.key], True, 0.0))
            continue
        what = f"{plan.subnet} {plan.model.precision} for {target.name}, batch 1 to {plan.settings.profile.max}"
        story.say(f"building {what} with {target.runtime} {plan.runtime_version} ({number} of {len(plans)})")
        built.append(_build_and_store(bundle, plan, story))
    return BuildReport(bundle.folder, built)


def timings_name(plan: BuildPlan) -> str:
    """Return the name of the timing cache; timings of one device and version say nothing of another."""
    device = sha256(plan.device.encode()).hexdigest()[:8]
    return f"{plan.target.runtime}-{plan.runtime_version}-{device}.timings"


def _build_and_store(bundle: Bundle, plan: BuildPlan, story: Story) -> BuiltFile:
    timings = bundle.folder / "engines" / timings_name(plan)
    earlier = timings.read_bytes() if timings.exists() else None
    start = time.monotonic()
    with _shown_progress(story) as progress:
        engine, record, kept = build_planned(
            bundle.read_bytes(plan.model), plan, progress=progress, timing_cache=earlier
        )
    store_engine(bundle, engine, record)
    if kept:
        with whole_file(timings) as temporary:
            temporary.write_bytes(kept)
    return BuiltFile(record, False, time.monotonic() - start)


@contextlib.contextmanager
def _shown_progress(story: Story) -> Iterator[Progress]:
    """Yield a call-back that moves a bar of percents."""
    with story.bar("building", total=100, unit="%") as bar:

        def progress(fraction: float, phase: str) -> None:
            bar.set_postfix_str(phase[:40], refresh=False)
            bar.update(round(100 * fraction) - bar.n)

        yield progress
