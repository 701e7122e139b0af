"""Compile ONNX to a TensorRT engine: one builder for TensorRT 8.6, 10, 11 and TensorRT for RTX.

Relies on the precision living in the ONNX graph: from TensorRT 10 on the network is strongly typed, and only 8.x is
told by flags what the graph already says. Engine bytes differ from build to build, so ``engine_key`` is an engine's
identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from deps.ground.errors import EngineError
from deps.serve.engines.cudart import load_cudart
from deps.serve.engines.runtimes import Messages, load_runtime, logged_calls
from deps.serve.engines.wire import node_at
from deps.serve.manifest import BatchProfile, Precision, TensorRTFlavour

Progress = Callable[[float, str], None]
"""Called with the fraction done, 0 to 1, and the phase TensorRT is in."""

# Below this, TensorRT for RTX must be told by name what to build for.
_RTX_DEFAULT_FROM = (8, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildSettings:
    """All that decides an engine besides the ONNX file and the versions."""

    profile: BatchProfile
    """Batch sizes it shall accept."""

    precision: Precision
    """What the ONNX graph is typed in; only TensorRT 8.x needs to be told."""

    workspace_bytes: int | None = None
    """Scratch memory that tactics may take; None leaves TensorRT's own limit, the whole GPU."""

    optimization_level: int = 3
    """How long TensorRT looks for kernels, 0 to 5; above 3 builds take many times longer for little."""

    compute_capabilities: tuple[str, ...] = ()
    """TensorRT for RTX only: GPUs to build for, e.g. ``("7.5",)``; empty builds for 8.0 and later."""


class BuiltEngine(NamedTuple):
    """An engine, and the timings that make the next build faster."""

    engine: bytes
    timing_cache: bytes | None


def rtx_capabilities(compute_capabilities: tuple[str, ...]) -> tuple[str, ...]:
    """Return the capabilities that must be named to TensorRT for RTX: none when its default serves them all."""
    numbers = [tuple(int(part) for part in capability.split(".")) for capability in compute_capabilities]
    return compute_capabilities if any(number < _RTX_DEFAULT_FROM for number in numbers) else ()


def engine_key(
    onnx_sha256: str, settings: BuildSettings, *, runtime: TensorRTFlavour, runtime_version: str, device: str = ""
) -> str:
    """Return the identity of an engine: a hash of everything that decided it.

    Args:
        onnx_sha256: hash of the ONNX bytes.
        settings: what was asked of the builder.
        runtime: the package that builds.
        runtime_version: its version.
        device: GPU, driver and CUDA of an engine that runs only where it was built; empty for one that travels.

    Returns:
        64 hexadecimal digits.
    """
    facts = {
        "onnx": onnx_sha256,
        "settings": asdict(settings),
        "runtime": runtime,
        "runtime_version": runtime_version,
        "device": device,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def build_engine(
    onnx: bytes,
    settings: BuildSettings,
    *,
    runtime: TensorRTFlavour,
    progress: Progress | None = None,
    timing_cache: bytes | None = None,
    path: Path | None = None,
) -> BuiltEngine:
    """Compile a model whose first input dimension is the batch.

    Args:
        onnx: the model, with its weights inside.
        settings: batch sizes, memory, precision.
        runtime: ``"tensorrt_rtx"`` builds anywhere; ``"tensorrt"`` only on the GPU that shall run the engine.
        progress: told how far the build is, where TensorRT tells (10 and later).
        timing_cache: from an earlier build on the same device; TensorRT for RTX has no use for it.
        path: where the model lies, if it keeps its weights in files beside it.

    Returns:
        The engine, and the timing cache to keep.

    Raises:
        EngineError: the model is empty, damaged, has an operator TensorRT lacks, or cannot be built here.
        MissingExtraError: the runtime is not installed.
    """
    if not onnx:
        # The parser accepts no bytes at all, and the builder then complains of something else.
        raise EngineError("the ONNX model is empty; expected a serialized model; export it again")
    trt = load_runtime(runtime)
    if runtime == "tensorrt":
        load_cudart()  # without a GPU, TensorRT 11 hands out objects around NULL and crashes on their first use
    with logged_calls(runtime) as (logger, messages):
        builder = trt.Builder(logger)
        network = builder.create_network(_network_flags(trt))
        _parse(trt, network, logger, onnx, messages, path)
        config = builder.create_builder_config()
        _configure(trt, config, settings, runtime)
        _add_profile(builder, network, config, settings.profile)
        cache = _attach_timing_cache(config, timing_cache) if runtime == "tensorrt" else None
        monitor = _attach_monitor(trt, config, progress)
        engine = builder.build_serialized_network(network, config)
        if monitor is not None and monitor.stopped_by is not None:
            raise monitor.stopped_by
        if engine is None:
            reason = messages.summary("it gave no reason")
            raise EngineError(
                f"{runtime} {trt.__version__} cannot build the engine: {reason}; use the ONNX file instead"
            )
        return BuiltEngine(bytes(engine), None if cache is None else bytes(cache.serialize()))


def _network_flags(trt: Any) -> int:
    """Return how a network is created: strongly typed where that exists, else (TensorRT 8) with an explicit batch."""
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        flag = getattr(trt.NetworkDefinitionCreationFlag, name, None)
        if flag is not None:
            return 1 << int(flag)
    return 0


def _parse(trt: Any, network: Any, logger: Any, onnx: bytes, messages: Messages, path: Path | None) -> None:
    parser = trt.OnnxParser(network, logger)
    if (parser.parse(onnx) if path is None else parser.parse(onnx, str(path))) and network.num_outputs > 0:
        return
    complaints = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        # node_operator and node_name came with TensorRT 10; the description alone may be just "false".
        operator, name = getattr(error, "node_operator", str)(), getattr(error, "node_name", str)()
        if not operator:
            operator, name = node_at(onnx, int(error.node())) or ("", "")
        where = f"operator {operator} at node {name!r}: " if operator else ""
        complaints.append(f"{where}{' '.join(error.desc().split())}")
    reason = " | ".join(complaints) or messages.summary("the model has no output")
    raise EngineError(
        f"TensorRT cannot read the ONNX model: {reason}; "
        "expected operators it knows; export it again, or use ONNX Runtime"
    )


def _configure(trt: Any, config: Any, settings: BuildSettings, runtime: TensorRTFlavour) -> None:
    config.builder_optimization_level = settings.optimization_level
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") and hasattr(trt.BuilderFlag, "FP16"):
        # TensorRT 8.6 keeps a profile for one context unless asked; from 10 on contexts share it anyway.
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
        if settings.precision in ("fp16", "trt-int8"):
            config.set_flag(trt.BuilderFlag.FP16)
        if settings.precision == "trt-int8":
            config.set_flag(trt.BuilderFlag.INT8)
    if not settings.compute_capabilities:
        return
    if runtime != "tensorrt_rtx":
        named = ", ".join(settings.compute_capabilities)
        raise EngineError(
            f"{runtime} cannot build for {named} from afar; expected none named; build on the device itself"
        )
    config.num_compute_capabilities = len(settings.compute_capabilities)
    for index, capability in enumerate(settings.compute_capabilities):
        known = trt.ComputeCapability.__members__
        name = f"SM{capability.replace('.', '')}"
        if name not in known:
            listed = ", ".join(sorted(known))
            raise EngineError(f"{runtime} {trt.__version__} does not build for {capability}; expected one of {listed}")
        config.set_compute_capability(known[name], index)


def _add_profile(builder: Any, network: Any, config: Any, profile: BatchProfile) -> None:
    """Say which batch sizes shall run; a model that fixes its batch must be asked for exactly that one."""
    dynamic = builder.create_optimization_profile()
    needs_profile = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, *rest = (int(size) for size in tensor.shape)
        if min(rest, default=1) < 0:
            raise EngineError(
                f"input {tensor.name!r} has the shape {(batch, *rest)}; "
                "expected only the batch to vary; export it again"
            )
        if batch < 0:
            needs_profile = True
            dynamic.set_shape(tensor.name, (profile.min, *rest), (profile.opt, *rest), (profile.max, *rest))
        elif not profile.min == profile.opt == profile.max == batch:
            raise EngineError(
                f"input {tensor.name!r} fixes its batch to {batch}; expected a dynamic batch for a profile of "
                f"{profile.min} to {profile.max}; export it with one, or ask for batch {batch} only"
            )
    if needs_profile:
        config.add_optimization_profile(dynamic)


def _attach_timing_cache(config: Any, earlier: bytes | None) -> Any:
    """Give the builder the timings of earlier builds; it refuses those of another device and starts afresh."""
    cache = config.create_timing_cache(earlier or b"")
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _attach_monitor(trt: Any, config: Any, progress: Progress | None) -> Any:
    """Let the builder tell how far it is, and let Ctrl-C stop it; None before TensorRT 10, which cannot."""
    if progress is None or not hasattr(trt, "IProgressMonitor"):
        return None
    report = progress

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is loaded at run time
        """Turns nested phases into one fraction."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped_by: BaseException | None = None
            self._furthest = 0.0
            self._phases: dict[str, list[int]] = {}  # steps done and steps in all, outermost phase first

        def phase_start(self, phase: str, parent: str | None, num_steps: int) -> None:
            """A phase begins inside its parent, which is the one that began last."""
            del parent
            self._phases[phase] = [0, max(1, num_steps)]

        def step_complete(self, phase: str, step: int) -> bool:
            """One step is done; False stops the build."""
            if phase in self._phases:
                self._phases[phase][0] = step + 1
            fraction, share = 0.0, 1.0
            for done, total in self._phases.values():
                fraction += share * min(done, total) / total
                share /= total
            self._furthest = max(self._furthest, fraction)
            try:
                report(self._furthest, phase)
            except BaseException as error:
                # Nothing may be raised through the library's frames; the build is stopped and the caller told.
                self.stopped_by = error
            return self.stopped_by is None

        def phase_finish(self, phase: str) -> None:
            """A phase ends."""
            self._phases.pop(phase, None)

    monitor = Monitor()
    config.progress_monitor = monitor
    return monitor
