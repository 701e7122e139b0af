"""Time nets with TensorRT, full or for RTX: whole engines as they are served, and their layers by its own profiler.

Relies on ``serve/engines`` for building, loading and running: what is timed is a CUDA graph with both copies, as it is
served. Builds share one timing cache, which makes each after the first several times faster.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deps.ground.errors import EngineError, LatencyTableError
from deps.profile.backends.base import Conditions, NodeTimes, Sample
from deps.profile.fingerprint import gpu, processor
from deps.serve.engines.builder import BuildSettings, BuiltEngine, build_engine, rtx_capabilities
from deps.serve.engines.cudart import load_cudart
from deps.serve.engines.header import read_header
from deps.serve.engines.runtimes import load_runtime
from deps.serve.engines.tensorrt import TensorRTEngine
from deps.serve.manifest import BatchProfile, EngineFile
from deps.serve.targets import Target
from deps.supernet.pieces import Piece, input_shape, output_elements
from deps.supernet.plan import NetworkPlan


class _Images(NamedTuple):
    name: str
    shape: tuple[int, int, int]


class _Logits(NamedTuple):
    name: str
    classes: int


def _ports(what: NetworkPlan | Piece) -> tuple[_Images, _Logits]:
    """Return what goes into a net and what comes out."""
    if isinstance(what, NetworkPlan):
        shape = (what.in_channels, what.resolution, what.resolution)
        return _Images("input", shape), _Logits("logits", what.classifier.features_out)
    return _Images("input", input_shape(what)), _Logits("logits", output_elements(what))


def open_backend(conditions: Conditions, target: Target, name: str) -> TensorRTBackend:
    """Return TensorRT on this machine's GPU.

    Raises:
        EngineError: there is no GPU, or the target has no TensorRT.
        MissingExtraError: the TensorRT that the target names is not installed.
    """
    del name
    if target.runtime is None:
        raise EngineError(f"target {target.name} has no TensorRT; expected one that has; name another with --target")
    load_cudart()
    load_runtime(target.runtime)
    return TensorRTBackend(conditions, target)


def build_net(
    path: Path, conditions: Conditions, target: Target, timing_cache: bytes | None = None
) -> tuple[BuiltEngine, EngineFile]:
    """Compile one net of a kit for one batch size, and describe the engine.

    For RTX this needs no GPU.

    Raises:
        EngineError: TensorRT cannot build it; the message says why.
    """
    assert target.runtime is not None
    runtime, onnx = target.runtime, path.read_bytes()
    batches = BatchProfile(min=conditions.batch, opt=conditions.batch, max=conditions.batch)
    settings = BuildSettings(
        profile=batches,
        precision=conditions.precision,
        workspace_bytes=target.workspace_bytes,
        compute_capabilities=rtx_capabilities(target.compute_capabilities) if runtime == "tensorrt_rtx" else (),
    )
    built = build_engine(onnx, settings, runtime=runtime, timing_cache=timing_cache, path=path)
    digest = sha256(built.engine).hexdigest()
    file = EngineFile(
        path=f"engines/{path.stem}.engine",
        sha256=digest,
        size_bytes=len(built.engine),
        built_from=sha256(onnx).hexdigest(),
        key=digest,
        subnet=path.stem,
        precision=conditions.precision,
        runtime=runtime,
        runtime_version=str(load_runtime(runtime).__version__),
        profile=batches,
        compute_capabilities=read_header(built.engine).compute_capabilities,
    )
    return built, file


class TensorRTBackend:
    """TensorRT on a GPU, under fixed conditions."""

    name = "tensorrt"
    has_node_times = True
    loads = 1
    has_cpu_clock = False
    # An engine takes from half a second to minutes to build, which a kill must not waste.
    max_group = 12

    def __init__(self, conditions: Conditions, target: Target) -> None:
        self.conditions = conditions
        self.target = target
        self._timing_cache: bytes | None = None

    def facts(self) -> dict[str, Any]:
        """Return the GPU, the driver, the limits of the clocks and the versions."""
        assert self.target.runtime is not None
        cuda = load_cudart()
        return {
            **processor(),
            **gpu(),
            "compute_capability": cuda.compute_capability(),
            "cuda_driver": cuda.driver_version(),
            "cuda_runtime": cuda.runtime_version(),
            self.target.runtime: str(load_runtime(self.target.runtime).__version__),
        }

    def load(self, path: Path, what: NetworkPlan | Piece, *, is_profiled: bool) -> TensorRTNet:
        """Build and load a net.

        Raises:
            LatencyTableError: TensorRT cannot build or load it.
        """
        try:
            built, file = build_net(path, self.conditions, self.target, self._timing_cache)
            self._timing_cache = built.timing_cache
            images, logits = _ports(what)
            batch = self.conditions.batch
            engine = TensorRTEngine(built.engine, file, input_spec=images, output_spec=logits, max_batch=batch)
        except EngineError as error:
            raise LatencyTableError(f"{path} cannot be measured: {error}") from error
        return TensorRTNet(engine, self.conditions.batch, is_profiled=is_profiled)


class TensorRTNet:
    """One engine."""

    def __init__(self, engine: TensorRTEngine, batch: int, *, is_profiled: bool) -> None:
        self._engine, self._batch, self._is_profiled = engine, batch, is_profiled
        self._layers: list[dict[str, float]] = []

    def run(self) -> None:
        """Run once and wait."""
        self._engine.replay_ms(self._batch, 1)

    def timed(self, runs: int) -> Sample:
        """Run several times and return the time of one run, by the GPU's own clock."""
        if self._is_profiled:
            layers = self._engine.layer_ms(self._batch, runs)
            self._layers.append(layers)
            total = sum(layers.values())
            return Sample(total, total, True)
        ms = self._engine.replay_ms(self._batch, runs)
        return Sample(ms, ms, True)

    def node_times(self) -> NodeTimes:
        """Return the times of the layers, as TensorRT's profiler gives them."""
        names = tuple(self._layers[0])
        return NodeTimes(names, np.array([[layers[name] for name in names] for layers in self._layers]))

    def close(self) -> None:
        """Give the engine back."""
        self._engine.close()
