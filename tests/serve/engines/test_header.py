"""The header check stands between a file and native code, so every lie of a header is tried on a real engine."""

from __future__ import annotations

import struct

import pytest

from deps.ground.errors import EngineError
from deps.serve.engines.builder import BuildSettings, build_engine
from deps.serve.engines.header import HEADER_BYTES, check_engine, read_header
from deps.serve.manifest import BatchProfile

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
pytestmark = pytest.mark.tensorrt


@pytest.fixture(scope="module")
def engine(tiny) -> bytes:
    settings = BuildSettings(profile=BatchProfile(), precision="fp32")
    return build_engine(tiny.onnx_bytes(), settings, runtime="tensorrt_rtx").engine


def _check(engine: bytes):
    return check_engine(engine, flavour="tensorrt_rtx", runtime_version=trt.__version__)


def test_engine_passes_in_the_version_that_built_it(engine: bytes):
    """The plain case."""
    assert _check(engine).flavour == "tensorrt_rtx"


@pytest.mark.parametrize("kept", [0, 10, HEADER_BYTES - 1])
def test_engine_shorter_than_its_header_is_refused(engine: bytes, kept: int):
    """A full disk leaves such files."""
    with pytest.raises(EngineError, match=f"an engine of {kept} bytes is cut short"):
        _check(engine[:kept])


def test_truncated_engine_is_refused_with_both_sizes(engine: bytes):
    """TensorRT itself says only that two numbers differ."""
    with pytest.raises(EngineError, match=f"has {len(engine) - 1} bytes, so it was cut short; expected {len(engine)}"):
        _check(engine[:-1])


def test_foreign_file_is_refused(tiny):
    """An ONNX file under an engine's name, say."""
    with pytest.raises(EngineError, match="is no TensorRT engine"):
        _check(tiny.onnx_bytes())


def test_engine_of_full_tensorrt_is_told_apart(engine: bytes):
    """The two packages' engines look alike but for four bytes, and neither runs in the other."""
    foreign = b"ftrt" + engine[4:]
    with pytest.raises(EngineError, match="built by tensorrt; expected one built by tensorrt_rtx"):
        _check(foreign)
    assert read_header(foreign).compute_capabilities == ()


def test_engine_of_another_version_is_refused_with_both_versions(engine: bytes):
    """Users report engines that are rejected without a word on why."""
    older = bytearray(engine)
    struct.pack_into("<4B", older, 24, 1, 2, 0, 54)
    with pytest.raises(EngineError, match=f"built by tensorrt_rtx 1.2.0.54; expected {trt.__version__}"):
        _check(bytes(older))


def test_only_major_minor_patch_of_the_version_count(engine: bytes):
    """Full TensorRT reports three parts, and a fourth is only a build number."""
    three = ".".join(trt.__version__.split(".")[:3])
    assert check_engine(engine, flavour="tensorrt_rtx", runtime_version=three)
