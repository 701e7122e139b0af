"""Real builds with TensorRT for RTX, which needs no GPU: an engine comes out, and what goes wrong has a name."""

from __future__ import annotations

import dataclasses

import pytest

from deps.ground.errors import EngineError
from deps.serve.engines.builder import BuildSettings, build_engine, engine_key, rtx_capabilities
from deps.serve.engines.cudart import why_no_gpu
from deps.serve.engines.header import check_engine, read_header
from deps.serve.manifest import BatchProfile

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
pytestmark = pytest.mark.tensorrt

SETTINGS = BuildSettings(profile=BatchProfile(min=1, opt=4, max=8), precision="fp32")


@pytest.fixture(scope="module")
def engine(tiny) -> bytes:
    return build_engine(tiny.onnx_bytes(), SETTINGS, runtime="tensorrt_rtx").engine


def test_engine_is_whole_and_says_who_built_it(engine: bytes):
    """The header is the one thing a device can check before native code runs."""
    header = check_engine(engine, flavour="tensorrt_rtx", runtime_version=trt.__version__)
    assert header.size_bytes == len(engine)
    assert header.version_text == trt.__version__


def test_engine_covers_ampere_and_later_by_default(engine: bytes):
    """One engine for every desktop of the target; 7.5 is only built for when it is named."""
    assert read_header(engine).compute_capabilities == ("8.0", "8.6", "8.9", "12.0", "12.1")


def test_named_capabilities_are_the_ones_built_for(tiny):
    """A user's own target with one GPU gets an engine for that GPU."""
    settings = dataclasses.replace(SETTINGS, compute_capabilities=("8.6", "8.9"))
    built = build_engine(tiny.onnx_bytes(), settings, runtime="tensorrt_rtx").engine
    assert read_header(built).compute_capabilities == ("8.6", "8.9")


def test_unknown_capability_lists_the_known(tiny):
    """TensorRT for RTX has no kernels for Orin, whatever the target file says."""
    settings = dataclasses.replace(SETTINGS, compute_capabilities=("8.7",))
    with pytest.raises(EngineError, match=r"does not build for 8.7; expected one of .*SM86"):
        build_engine(tiny.onnx_bytes(), settings, runtime="tensorrt_rtx")


def test_progress_rises_to_the_end(tiny):
    """A build of minutes on a Jetson must show that it lives; the fraction never falls and arrives."""
    seen: list[float] = []
    build_engine(tiny.onnx_bytes(), SETTINGS, runtime="tensorrt_rtx", progress=lambda done, _: seen.append(done))
    assert len(seen) > 10
    assert all(0 <= done <= 1 for done in seen)
    assert seen == sorted(seen)
    assert seen[-1] > 0.8


def test_interrupted_build_stops_and_says_so(tiny):
    """Ctrl-C during a build arrives inside the library's call-back, and must come out as itself."""

    def interrupt(done: float, phase: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(tiny.onnx_bytes(), SETTINGS, runtime="tensorrt_rtx", progress=interrupt)
    # And the library is in order afterwards.
    assert build_engine(tiny.onnx_bytes(), SETTINGS, runtime="tensorrt_rtx").engine


def test_empty_model_is_refused_before_the_parser_accepts_it():
    """The parser takes no bytes at all for a model, and the builder then blames the outputs."""
    with pytest.raises(EngineError, match="the ONNX model is empty"):
        build_engine(b"", SETTINGS, runtime="tensorrt_rtx")


def test_damaged_model_is_told_from_a_strange_one(tiny):
    """A cut file and an unknown operator need different remedies."""
    with pytest.raises(EngineError, match="Failed to parse the ONNX model"):
        build_engine(tiny.onnx_bytes()[:-20], SETTINGS, runtime="tensorrt_rtx")


@pytest.mark.parametrize("operator", ["Bogus", "StringNormalizer"])
def test_unsupported_operator_is_named_with_its_node(tiny, operator: str):
    """TensorRT's own description may be the one word "false"."""
    with pytest.raises(EngineError, match=f"operator {operator} at node 'last'"):
        build_engine(tiny.onnx_bytes(extra_op=operator), SETTINGS, runtime="tensorrt_rtx")


def test_fixed_batch_needs_a_profile_of_that_batch(tiny):
    """An engine that takes one image only must not be recorded as taking eight."""
    with pytest.raises(EngineError, match="fixes its batch to 1; expected a dynamic batch"):
        build_engine(tiny.onnx_bytes(batch=1), SETTINGS, runtime="tensorrt_rtx")
    one = dataclasses.replace(SETTINGS, profile=BatchProfile(min=1, opt=1, max=1))
    assert build_engine(tiny.onnx_bytes(batch=1), one, runtime="tensorrt_rtx").engine


def test_workspace_too_small_is_no_crash(tiny):
    """A cap is a limit for tactics; a model this small needs none of it."""
    settings = dataclasses.replace(SETTINGS, workspace_bytes=64 << 20)
    assert build_engine(tiny.onnx_bytes(), settings, runtime="tensorrt_rtx").engine


@pytest.mark.skipif(why_no_gpu() is None, reason="needs a machine without a GPU")
def test_full_tensorrt_is_not_touched_without_a_gpu(tiny):
    """Without a GPU the full builder may crash the process; whatever is missing here must be said instead."""
    from deps.ground.errors import DepsError

    with pytest.raises(DepsError, match=r"no GPU can be used|is not installed|cannot be loaded"):
        build_engine(tiny.onnx_bytes(), SETTINGS, runtime="tensorrt")


def test_capabilities_below_the_default_are_named_with_all_others():
    """TensorRT for RTX serves 8.0 and later unasked; naming them too would only narrow the engine."""
    assert rtx_capabilities(("8.0", "8.9", "12.0")) == ()
    assert rtx_capabilities(("7.5", "8.6")) == ("7.5", "8.6")


def test_key_changes_with_everything_that_decides_an_engine():
    """A cache that misses one of these would run an old engine after an update."""
    facts = {"runtime": "tensorrt", "runtime_version": "10.3.0", "device": "Orin, driver 540"}
    keys = [
        engine_key("a" * 64, SETTINGS, **facts),
        engine_key("b" * 64, SETTINGS, **facts),
        engine_key("a" * 64, dataclasses.replace(SETTINGS, profile=BatchProfile(max=16)), **facts),
        engine_key("a" * 64, dataclasses.replace(SETTINGS, precision="fp16"), **facts),
        engine_key("a" * 64, dataclasses.replace(SETTINGS, workspace_bytes=1 << 20), **facts),
        engine_key("a" * 64, dataclasses.replace(SETTINGS, optimization_level=5), **facts),
        engine_key("a" * 64, SETTINGS, **{**facts, "runtime": "tensorrt_rtx"}),
        engine_key("a" * 64, SETTINGS, **{**facts, "runtime_version": "10.4.0"}),
        engine_key("a" * 64, SETTINGS, **{**facts, "device": "Orin, driver 541"}),
    ]
    assert len(set(keys)) == len(keys)
    assert engine_key("a" * 64, SETTINGS, **facts) == keys[0]
