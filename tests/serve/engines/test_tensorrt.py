"""The TensorRT engine: what needs no GPU is tested everywhere, the rest where there is one."""

from __future__ import annotations

import dataclasses
import hashlib
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deps.ground.errors import EngineError
from deps.serve.engines.builder import BuildSettings, build_engine
from deps.serve.engines.cudart import why_no_gpu
from deps.serve.engines.tensorrt import TensorRTEngine, lane_sizes, narrowed, padded_size, why_not_on
from deps.serve.manifest import BatchProfile, EngineFile, InputSpec, OutputSpec

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
pytestmark = pytest.mark.tensorrt

INPUT = InputSpec(shape=(1, 8, 8), color="L", mean=(0.0,), std=(1.0,))
OUTPUT = OutputSpec(classes=10)
RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")
NO_GPU = why_no_gpu()


@pytest.fixture(scope="module")
def built(tiny) -> tuple[bytes, EngineFile]:
    onnx, profile = tiny.onnx_bytes(), BatchProfile(min=1, opt=4, max=6)
    settings = BuildSettings(profile=profile, precision="fp32")
    engine = build_engine(onnx, settings, runtime="tensorrt_rtx").engine
    record = EngineFile(
        path="engines/large-fp32.engine",
        sha256=hashlib.sha256(engine).hexdigest(),
        size_bytes=len(engine),
        built_from=hashlib.sha256(onnx).hexdigest(),
        key="0" * 64,
        subnet="large",
        precision="fp32",
        runtime="tensorrt_rtx",
        runtime_version="1",
        profile=profile,
    )
    return engine, record


@given(st.integers(1, 8), st.integers(0, 8), st.integers(0, 200))
def test_every_batch_of_the_profile_fits_a_lane_with_little_padding(low: int, middle: int, high: int):
    """Lanes are few, hold every batch that is allowed, and waste less than half of what they compute."""
    profile = BatchProfile(min=low, opt=low + middle, max=low + middle + high)
    sizes = lane_sizes(profile)
    assert profile.min == sizes[0]
    assert profile.max == sizes[-1]
    assert len(sizes) <= 2 + profile.max.bit_length()
    for images in range(1, profile.max + 1):
        size = padded_size(images, sizes)
        assert images <= size < max(2 * images, profile.min + 1)


def test_lanes_are_powers_of_two_and_the_ends():
    """Graphs for 1, 2, 4, 8 …, as the engine is captured."""
    assert lane_sizes(BatchProfile(min=1, opt=1, max=6)) == (1, 2, 4, 6)
    assert lane_sizes(BatchProfile(min=3, opt=4, max=16)) == (3, 4, 8, 16)


def test_batch_limit_narrows_a_profile_and_never_widens_it():
    """``--max-batch`` saves the memory of the larger lanes; it cannot ask an engine for more than it was built for."""
    built = BatchProfile(min=2, opt=4, max=8)
    assert narrowed(built, 16) == built
    assert narrowed(built, 3) == BatchProfile(min=2, opt=3, max=3)
    assert narrowed(built, 1) == BatchProfile(min=2, opt=2, max=2)


def test_engine_for_another_gpu_is_refused_by_name(built):
    """A copied bundle brings along engines of the machine it came from."""
    _, record = built
    jetson = dataclasses.replace(record, compute_capabilities=("8.7",))
    assert why_not_on("8.7", jetson, ()) is None
    assert why_not_on("8.9", jetson, ()) == "it was built for compute capability 8.7, and this GPU has 8.9"
    assert why_not_on("8.9", record, RTX_CAPABILITIES) is None
    assert why_not_on("9.0", record, RTX_CAPABILITIES) is not None


@pytest.mark.skipif(NO_GPU is None, reason="needs a machine without a GPU")
def test_without_a_gpu_the_engine_says_why_and_the_process_lives(built):
    """TensorRT may crash where there is no GPU; this process must get a reason instead."""
    engine, record = built
    with pytest.raises(EngineError, match=r"no GPU can be used: .*; expected an NVIDIA GPU with its driver"):
        TensorRTEngine(engine, record, input_spec=INPUT, output_spec=OUTPUT, max_batch=8)


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU is not None, reason=f"needs a CUDA GPU: {NO_GPU}")
def test_engine_computes_what_numpy_computes(built, tiny, images):
    """Padding, pinned buffers and graphs change nothing but the speed, for every batch and from several threads."""
    engine_bytes, record = built
    engine = TensorRTEngine(engine_bytes, record, input_spec=INPUT, output_spec=OUTPUT, max_batch=8)

    def compute() -> None:
        for batch in (1, 2, 3, 5, 6, 1):
            np.testing.assert_allclose(engine.infer(images[:batch]), tiny.logits(images[:batch]), rtol=1e-2, atol=1e-2)

        # What is written straight into a lane's pinned memory gives the same answer, without a copy.
        place = engine.place(3)
        place[:] = images[:3]
        np.testing.assert_allclose(engine.infer(place), tiny.logits(images[:3]), rtol=1e-2, atol=1e-2)

    failures: list[BaseException] = []

    def compute_aside() -> None:
        try:
            compute()
        except BaseException as error:
            failures.append(error)

    compute()
    aside = threading.Thread(target=compute_aside)
    aside.start()
    aside.join()
    assert not failures
    assert engine.graph_failures == {}
    with pytest.raises(EngineError, match="1 to 6"):
        engine.infer(images)
    engine.close()
