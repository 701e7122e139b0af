"""``deps-serve build``: real engines, built once, each whole with its record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deps.ground.console import Story
from deps.ground.errors import DepsError, EngineError
from deps.serve.build import build_bundle, build_planned, capped_workspace, models_to_build, plan_build, timings_name
from deps.serve.bundle import read_bundle
from deps.serve.engines.cudart import why_no_gpu
from deps.serve.engines.header import check_engine
from deps.serve.targets import get_target

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
pytestmark = pytest.mark.tensorrt


def test_engines_are_built_once(make_bundle: Callable[..., Path]):
    """The command may stand in a device's start script: the second run builds nothing and touches nothing."""
    bundle = read_bundle(make_bundle("rtx", precisions=("fp32", "fp16")))
    first = build_bundle(bundle, get_target("rtx"), Story(quiet=True))
    assert [(entry.file.subnet, entry.file.precision, entry.is_cached) for entry in first.built] == [
        ("large", "fp16", False),
        ("small", "fp16", False),
    ]
    before = {path: path.stat().st_mtime_ns for path in (bundle.folder / "engines").iterdir()}
    second = build_bundle(bundle, get_target("rtx"), Story(quiet=True))
    assert all(entry.is_cached for entry in second.built)
    assert [entry.file for entry in second.built] == [entry.file for entry in first.built]
    assert {path: path.stat().st_mtime_ns for path in (bundle.folder / "engines").iterdir()} == before
    assert json.dumps(second.to_dict())
    assert "kept" in second.to_text()


def test_record_vouches_for_the_engine(make_bundle: Callable[..., Path]):
    """The loader believes this record, so it must hold the engine's own hash and its model's."""
    bundle = read_bundle(make_bundle("rtx"))
    record = build_bundle(bundle, get_target("rtx"), Story(quiet=True), max_batch=3).built[0].file
    content = (bundle.folder / record.path).read_bytes()
    assert record.sha256 == hashlib.sha256(content).hexdigest()
    assert record.built_from == bundle.manifest.default_subnet.models[0].sha256
    assert record.profile.max == 3
    assert record.compute_capabilities == get_target("rtx").compute_capabilities
    check_engine(content, flavour="tensorrt_rtx", runtime_version=trt.__version__)


def test_another_batch_is_another_engine(make_bundle: Callable[..., Path]):
    """An engine for 3 images is not one for 16, and both may stand side by side."""
    bundle = read_bundle(make_bundle("rtx"))
    large = [bundle.manifest.default_subnet]
    one = build_bundle(bundle, get_target("rtx"), Story(quiet=True), subnets=large, max_batch=3)
    other = build_bundle(bundle, get_target("rtx"), Story(quiet=True), subnets=large)
    assert not other.built[0].is_cached
    assert one.built[0].file.path != other.built[0].file.path


def test_planned_engine_needs_no_bundle(tiny, make_bundle: Callable[..., Path]):
    """Extraction builds before the manifest exists, with the same two calls."""
    model = read_bundle(make_bundle("rtx")).manifest.default_subnet.models[0]
    plan = plan_build(get_target("rtx"), "large", model)
    engine, record, timings = build_planned(tiny.onnx_bytes(), plan)
    assert record.key == plan.key
    assert record.size_bytes == len(engine)
    assert timings is None


def test_interrupted_build_leaves_nothing(make_bundle: Callable[..., Path]):
    """Ctrl-C during a long build must leave neither half an engine nor a record of one."""
    bundle = read_bundle(make_bundle("rtx"))

    def interrupt(percent: int) -> None:
        raise KeyboardInterrupt

    class Impatient(Story):
        def bar(self, *args, **kwargs):
            bar = super().bar(*args, **kwargs)
            bar.update = interrupt
            return bar

    with pytest.raises(KeyboardInterrupt):
        build_bundle(bundle, get_target("rtx"), Impatient(quiet=True))
    assert not list((bundle.folder / "engines").glob("*"))


def test_target_without_tensorrt_says_so(make_bundle: Callable[..., Path]):
    """Building for the processor is a misunderstanding that deserves an answer."""
    with pytest.raises(EngineError, match="target cpu has no TensorRT, so there is no engine to build"):
        build_bundle(read_bundle(make_bundle()), get_target("cpu"), Story(quiet=True))


@pytest.mark.skipif(why_no_gpu() is None, reason="needs a machine without a GPU")
def test_jetson_engine_is_not_built_off_the_board(make_bundle: Callable[..., Path]):
    """What is missing here, the package or the GPU, is named precisely."""
    bundle = read_bundle(make_bundle("jetson-orin"))
    with pytest.raises(DepsError, match=r"tensorrt is not installed.*JetPack|no GPU can be used|cannot be loaded"):
        build_bundle(bundle, get_target("jetson"), Story(quiet=True))
    assert not (bundle.folder / "engines").exists()


def test_precision_is_the_targets_best_or_the_named(make_bundle: Callable[..., Path]):
    """One build of minutes by default; more when asked; never an unknown one."""
    subnet = read_bundle(make_bundle("rtx", precisions=("fp32", "trt-int8", "cpu-int8"))).manifest.default_subnet
    target = get_target("rtx")
    assert [model.precision for model in models_to_build(subnet, target)] == ["trt-int8"]
    assert [model.precision for model in models_to_build(subnet, target, ["fp32", "trt-int8"])] == ["fp32", "trt-int8"]
    with pytest.raises(EngineError, match="has no cpu-int8 file for TensorRT; expected fp32, trt-int8"):
        models_to_build(subnet, target, ["cpu-int8"])


def test_bundle_without_a_model_for_tensorrt_says_so(make_bundle: Callable[..., Path]):
    """A bundle made for the processor has nothing to build from."""
    bundle = read_bundle(make_bundle("cpu", precisions=("cpu-int8",)))
    with pytest.raises(EngineError, match="holds no model for TensorRT"):
        build_bundle(bundle, get_target("rtx"), Story(quiet=True))


def test_a_build_never_takes_half_of_the_device():
    """On a Jetson the memory of the GPU is that of everything else, and the kernel ends who takes too much."""
    gib = 1 << 30
    assert capped_workspace(1 * gib, 8 * gib) == 1 * gib
    assert capped_workspace(6 * gib, 8 * gib) == 4 * gib
    assert capped_workspace(None, 4 * gib) == 2 * gib


def test_timings_of_another_device_or_version_lie_elsewhere(make_bundle: Callable[..., Path]):
    """A bundle may be carried from board to board; one board's timings would choose slow kernels on the next."""
    model = read_bundle(make_bundle("rtx")).manifest.default_subnet.models[0]
    plan = plan_build(get_target("rtx"), "large", model)
    others = [dataclasses.replace(plan, device="SM 8.7"), dataclasses.replace(plan, runtime_version="10.3.0")]
    assert len({timings_name(one) for one in (plan, *others)}) == 3
    assert timings_name(plan) == timings_name(dataclasses.replace(plan, subnet="small"))
