"""The automatic choice: what a device gets without asking, and the reason that is printed with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deps.ground.console import Story
from deps.ground.errors import BundleError, EngineError
from deps.serve.build import build_bundle
from deps.serve.bundle import Bundle, read_bundle
from deps.serve.choose import choose, load_engine
from deps.serve.engines.cache import find_engines
from deps.serve.engines.cudart import why_no_gpu
from deps.serve.manifest import write_manifest
from deps.serve.targets import get_target

NO_GPU = why_no_gpu()
needs_no_gpu = pytest.mark.skipif(NO_GPU is None, reason="needs a machine without a GPU")


def _bundle(folder: Path, **measured_ms: float) -> Bundle:
    """Return the bundle, with these latencies on the CPU for ``fp32`` and ``cpu_int8``."""
    bundle = read_bundle(folder)

    def measured(model):
        key = model.precision.replace("-", "_")
        return dataclasses.replace(model, measured_ms={"cpu": measured_ms[key]} if key in measured_ms else {})

    subnets = tuple(
        dataclasses.replace(subnet, models=tuple(measured(model) for model in subnet.models))
        for subnet in bundle.manifest.subnets
    )
    return Bundle(bundle.folder, dataclasses.replace(bundle.manifest, subnets=subnets))


def _choose(bundle: Bundle, target: str = "cpu", **options):
    return choose(bundle, get_target(target), bundle.manifest.default_subnet, **options)


def test_processor_runs_the_exact_model_unless_int8_was_measured_faster(make_bundle: Callable[..., Path]):
    """Quantising costs accuracy, so it must have been seen to pay."""
    folder = make_bundle(precisions=("cpu-int8", "fp32"))
    assert _choose(_bundle(folder)).file.precision == "fp32"
    assert _choose(_bundle(folder, fp32=2.0, cpu_int8=3.0)).file.precision == "fp32"
    assert _choose(_bundle(folder, cpu_int8=1.0)).file.precision == "fp32"
    faster = _choose(_bundle(folder, fp32=2.0, cpu_int8=1.5))
    assert faster.file.precision == "cpu-int8"
    assert str(faster) == "onnxruntime cpu-int8: measured 1.5 ms on cpu, fp32 2 ms"


def test_tensorrt_artefact_never_runs_on_the_processor(make_bundle: Callable[..., Path]):
    """It would be up to nine times slower than plain fp32, in silence."""
    folder = make_bundle("rtx", precisions=("trt-int8", "fp16"))
    with pytest.raises(EngineError, match="holds no fp32 or cpu-int8 file that ONNX Runtime may run"):
        _choose(read_bundle(folder), "cpu")
    with pytest.raises(EngineError, match="holds no fp16 file that ONNX Runtime may run"):
        _choose(read_bundle(folder), "cpu", precision="fp16")


@needs_no_gpu
def test_missing_engine_is_part_of_the_printed_reason(make_bundle: Callable[..., Path]):
    """A user of a Jetson's bundle on another machine learns why it is not TensorRT that answers."""
    choice = _choose(read_bundle(make_bundle("jetson-orin")), "jetson")
    assert choice.backend == "onnxruntime"
    assert f"no TensorRT engine was built yet, and none could run here: {NO_GPU}" in str(choice)


@needs_no_gpu
@pytest.mark.tensorrt
def test_engine_that_cannot_run_is_named_with_the_reason(make_bundle: Callable[..., Path]):
    """The engine is there, was built here, and still cannot run without a GPU: all three are said."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    bundle = read_bundle(make_bundle("rtx"))
    report = build_bundle(bundle, get_target("rtx"), Story(quiet=True))
    choice = _choose(bundle, "rtx")
    path = report.built[0].file.path
    assert str(choice).startswith(f"onnxruntime fp32: the TensorRT engine {path} cannot run here: {NO_GPU}")
    with pytest.raises(EngineError, match="cannot run here"):
        _choose(bundle, "rtx", backend="tensorrt")


@pytest.mark.tensorrt
def test_altered_engine_does_not_count(make_bundle: Callable[..., Path]):
    """Deserializing runs native code: an engine that is not the recorded one must never get that far."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    bundle = read_bundle(make_bundle("rtx"))
    first, second = (entry.file for entry in build_bundle(bundle, get_target("rtx"), Story(quiet=True)).built)
    assert {engine.path for engine in find_engines(bundle).engines} == {first.path, second.path}
    place = bundle.folder / first.path
    place.write_bytes(place.read_bytes()[:-1] + b"!")
    found = find_engines(bundle)
    assert [engine.path for engine in found.engines] == [second.path]
    assert "it was altered, and is not opened" in found.complaints[0]
    # A record that points elsewhere, or that was made for an older model, is no better.
    record = json.loads((bundle.folder / second.path).with_suffix(".json").read_text())
    for change, said in (({"path": first.path}, "describes"), ({"built_from": "0" * 64}, "from an older model")):
        (bundle.folder / second.path).with_suffix(".json").write_text(json.dumps(record | change))
        found = find_engines(bundle)
        assert not found.engines
        assert said in found.complaints[1]


def test_what_is_asked_for_is_used_or_refused(make_bundle: Callable[..., Path]):
    """Nothing a user set is ignored in silence."""
    bundle = read_bundle(make_bundle(precisions=("fp32", "cpu-int8")))
    assert str(_choose(bundle, precision="cpu-int8")) == "onnxruntime cpu-int8: asked for with --precision"
    with pytest.raises(EngineError, match="has no fp16 file; expected one of fp32, cpu-int8"):
        _choose(bundle, precision="fp16")
    with pytest.raises(EngineError, match="nothing here can run subnet large as asked"):
        _choose(bundle, backend="tensorrt") if NO_GPU else pytest.skip("needs a machine without a GPU")


def test_loaded_engine_is_the_chosen_one(make_bundle: Callable[..., Path], tiny_small, images):
    """The second subnet's answers, by its own weights."""
    import numpy as np

    bundle = read_bundle(make_bundle())
    loaded = load_engine(bundle, get_target("cpu"), bundle.manifest.subnet("small"), num_threads=1)
    assert (loaded.engine.subnet, loaded.engine.precision) == ("small", "fp32")
    assert loaded.engine.max_batch == get_target("cpu").max_batch
    np.testing.assert_allclose(loaded.engine.infer(images), tiny_small.logits(images), rtol=1e-4, atol=1e-4)


def test_file_altered_between_reading_and_loading_is_refused(make_bundle: Callable[..., Path]):
    """The bytes that are loaded are the bytes that were hashed."""
    bundle = read_bundle(make_bundle())
    (bundle.folder / "models/large/fp32.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match="cut short or altered"):
        load_engine(bundle, get_target("cpu"), bundle.manifest.default_subnet)


def test_bundle_with_an_engine_in_its_manifest_lists_it(make_bundle: Callable[..., Path]):
    """Engines that extraction built travel in the manifest and need no record beside them."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    bundle = read_bundle(make_bundle("rtx"))
    built = build_bundle(bundle, get_target("rtx"), Story(quiet=True)).built[0].file
    (bundle.folder / built.path).with_suffix(".json").unlink()
    write_manifest(bundle.folder, dataclasses.replace(bundle.manifest, engines=(built,)))
    assert built in find_engines(read_bundle(bundle.folder)).engines
