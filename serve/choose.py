"""Choose what runs a subnet here, from the target, the bundle and what is installed, and say why.

Relies on the target's order of backends and precisions. A TensorRT artefact never runs on the processor: it would be
up to nine times slower than plain fp32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from deps.ground.errors import DepsError, EngineError
from deps.serve.bundle import Bundle
from deps.serve.engines.base import Engine
from deps.serve.engines.cache import find_engines
from deps.serve.engines.cudart import load_cudart, why_no_gpu
from deps.serve.engines.header import check_engine
from deps.serve.engines.runtimes import load_runtime
from deps.serve.manifest import Backend, EngineFile, ModelFile, SubnetEntry
from deps.serve.targets import Target

BackendOption = Literal["auto", "onnxruntime", "tensorrt"]

# What is made for the processor; other precisions run there only when the user insists and the file allows it.
PROCESSOR_PRECISIONS = ("fp32", "cpu-int8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What shall run, and why nothing better does."""

    backend: Backend
    """What runs it."""

    subnet: SubnetEntry
    """What is run."""

    file: ModelFile | EngineFile
    """The file that is loaded."""

    reason: str
    """Why this one, in words for a person."""

    def __str__(self) -> str:
        return f"{self.backend} {self.file.precision}: {self.reason}"


def choose(
    bundle: Bundle,
    target: Target,
    subnet: SubnetEntry,
    *,
    backend: BackendOption = "auto",
    precision: str | None = None,
) -> Choice:
    """Choose the backend and the file for one subnet on this machine.

    Args:
        bundle: an opened bundle.
        target: the target whose preferences count.
        subnet: the subnet to run.
        backend: ``"auto"`` takes the target's first backend that works here; a name insists on that one.
        precision: insists on one precision; None lets the target and the measurements decide.

    Raises:
        EngineError: nothing fits; the message says why each candidate does not.
    """
    held = tuple(model.precision for model in subnet.models)
    if precision is not None and precision not in held:
        raise EngineError(
            f"subnet {subnet.name} has no {precision} file; expected one of {', '.join(held)}; choose with --precision"
        )
    reasons: list[str] = []
    for candidate in target.backends if backend == "auto" else (backend,):
        if candidate == "tensorrt":
            found = _choose_engine(bundle, target, subnet, precision)
        else:
            found = _choose_model(target, subnet, precision, reasons)
        if isinstance(found, Choice):
            return found
        reasons.append(found)
    asked = f"{subnet.name} {precision or ''}".strip()
    raise EngineError(f"nothing here can run subnet {asked} as asked: {'; '.join(reasons)}; let --engine auto choose")


def _choose_engine(bundle: Bundle, target: Target, subnet: SubnetEntry, precision: str | None) -> Choice | str:
    """Return the best TensorRT engine that can run here, or why there is none."""
    found = find_engines(bundle)
    order = [precision] if precision is not None else [str(entry) for entry in target.precisions]
    engines = [engine for engine in found.engines if engine.subnet == subnet.name and engine.precision in order]
    engines.sort(key=lambda engine: order.index(engine.precision))
    if not engines:
        blocked = f" ({found.complaints[0]})" if found.complaints else ""
        gpu = why_no_gpu()
        remedy = f"run deps-serve build {bundle.folder}" if gpu is None else f"and none could run here: {gpu}"
        return f"no TensorRT engine was built yet{blocked}, {remedy}"
    failures = []
    for engine in engines:
        reason = why_not_here(bundle, engine)
        if reason is None:
            why = f"the engine {engine.path}, first of {target.name}'s choices that runs here"
            return Choice(backend="tensorrt", subnet=subnet, file=engine, reason=why)
        failures.append(f"the TensorRT engine {engine.path} cannot run here: {reason}")
    return failures[0]


def why_not_here(bundle: Bundle, engine: EngineFile) -> str | None:
    """Return why an engine cannot run on this machine, or None when it should; loads nothing native of the engine."""
    from deps.serve.engines.tensorrt import why_not_on

    reason = why_no_gpu()
    if reason is not None:
        return reason
    try:
        version = load_runtime(engine.runtime).__version__
        header = check_engine(bundle.read_bytes(engine), flavour=engine.runtime, runtime_version=version)
        return why_not_on(load_cudart().compute_capability(), engine, header.compute_capabilities)
    except DepsError as error:
        return str(error)


def _choose_model(target: Target, subnet: SubnetEntry, precision: str | None, before: list[str]) -> Choice | str:
    """Return the best ONNX file for the processor, or why there is none."""
    candidates = [
        model
        for model in subnet.models
        if "onnxruntime" in model.backends
        and (model.precision == precision if precision is not None else model.precision in PROCESSOR_PRECISIONS)
    ]
    if not candidates:
        wanted = precision or " or ".join(PROCESSOR_PRECISIONS)
        return f"the bundle holds no {wanted} file that ONNX Runtime may run"
    by_precision = {model.precision: model for model in candidates}
    plain, quantised = by_precision.get("fp32"), by_precision.get("cpu-int8")
    if precision is not None:
        model, reason = candidates[0], "asked for with --precision"
    elif plain is None:
        model, reason = candidates[0], "the only file for the processor"
    elif quantised is not None and (faster := _measured_faster(quantised, plain, target)) is not None:
        model, reason = quantised, faster
    else:
        model, reason = plain, "the exact model on the processor"
    return Choice(backend="onnxruntime", subnet=subnet, file=model, reason="; ".join([*before, reason]))


def _measured_faster(quantised: ModelFile, plain: ModelFile, target: Target) -> str | None:
    """Return how much faster the quantised file was measured to be, or None when it was not."""
    for where in (target.name, "cpu"):
        if where in quantised.measured_ms and where in plain.measured_ms:
            fast, slow = quantised.measured_ms[where], plain.measured_ms[where]
            return f"measured {fast:.3g} ms on {where}, fp32 {slow:.3g} ms" if fast < slow else None
    return None


class Loaded(NamedTuple):
    """A choice, and the engine that came of it."""

    choice: Choice
    engine: Engine


def load_engine(
    bundle: Bundle,
    target: Target,
    subnet: SubnetEntry,
    *,
    backend: BackendOption = "auto",
    precision: str | None = None,
    max_batch: int | None = None,
    num_threads: int | None = None,
) -> Loaded:
    """Choose and load; an engine that TensorRT refuses after all gives way to ONNX Runtime, with the reason.

    Raises:
        BundleError: the file was altered since the bundle was opened.
        EngineError: nothing fits, or what was insisted on does not load.
    """
    limit = max_batch or target.max_batch
    choice = choose(bundle, target, subnet, backend=backend, precision=precision)
    try:
        return Loaded(choice, open_engine(bundle, choice, max_batch=limit, num_threads=num_threads))
    except EngineError as error:
        if backend != "auto" or choice.backend != "tensorrt" or "onnxruntime" not in target.backends:
            raise
        instead = choose(bundle, target, subnet, backend="onnxruntime", precision=precision)
        instead = replace(instead, reason=f"{error}; {instead.reason}")
        return Loaded(instead, open_engine(bundle, instead, max_batch=limit, num_threads=num_threads))


def open_engine(bundle: Bundle, choice: Choice, *, max_batch: int, num_threads: int | None = None) -> Engine:
    """Load what was chosen.

    Args:
        bundle: the bundle it was chosen from.
        choice: the backend and the file.
        max_batch: most images at once, as far as an engine's profile allows.
        num_threads: threads of ONNX Runtime; all cores but one when None.

    Raises:
        BundleError: the file was altered since the bundle was opened.
        EngineError: the backend refuses it.
    """
    manifest = bundle.manifest
    content = bundle.read_bytes(choice.file)
    if isinstance(choice.file, EngineFile):
        from deps.serve.engines.tensorrt import TensorRTEngine

        return TensorRTEngine(
            content, choice.file, input_spec=manifest.input, output_spec=manifest.output, max_batch=max_batch
        )
    from deps.serve.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(
        content,
        subnet=choice.subnet.name,
        precision=choice.file.precision,
        input_spec=manifest.input,
        output_spec=manifest.output,
        max_batch=max_batch,
        num_threads=num_threads,
    )
