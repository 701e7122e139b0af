"""The engine that runs everywhere must compute what the graph says, and name what it cannot load."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from deps.ground.errors import EngineError
from deps.serve.engines.base import infer_in_parts
from deps.serve.engines.onnxruntime import OnnxRuntimeEngine, default_threads, usable_cores
from deps.serve.manifest import InputSpec, OutputSpec

INPUT = InputSpec(shape=(1, 8, 8), color="L", mean=(0.0,), std=(1.0,))
OUTPUT = OutputSpec(classes=10)


def _open(model: bytes, **changes) -> OnnxRuntimeEngine:
    facts = {"subnet": "large", "precision": "fp32", "input_spec": INPUT, "output_spec": OUTPUT, "max_batch": 4}
    return OnnxRuntimeEngine(model, **{**facts, **changes})


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_engine_computes_what_numpy_computes(tiny, images, batch: int):
    """The numbers are checked against the graph written out in numpy, not against the runtime itself."""
    logits_NV = _open(tiny.onnx_bytes()).infer(images[:batch])
    assert logits_NV.dtype == np.float32
    np.testing.assert_allclose(logits_NV, tiny.logits(images[:batch]), rtol=1e-4, atol=1e-4)


def test_more_images_than_the_batch_are_computed_in_parts(tiny, images):
    """A picture set of any size goes through a small engine, in order."""
    logits_NV = infer_in_parts(_open(tiny.onnx_bytes(), max_batch=3), images)
    np.testing.assert_allclose(logits_NV, tiny.logits(images), rtol=1e-4, atol=1e-4)


def test_trimmed_engine_computes_as_before(tiny, images):
    """Memory that large batches took is given back after the start; the next large one takes it again."""
    engine = _open(tiny.onnx_bytes())
    for _ in range(2):
        np.testing.assert_allclose(engine.infer(images[:4]), tiny.logits(images[:4]), rtol=1e-4, atol=1e-4)
        engine.trim()


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((5, 1, 8, 8), np.float32),
        np.zeros((0, 1, 8, 8), np.float32),
        np.zeros((1, 3, 8, 8), np.float32),
        np.zeros((1, 1, 8, 8), np.float64),
        np.zeros((), np.float32),
    ],
)
def test_batch_it_was_not_made_for_is_refused(tiny, batch: np.ndarray):
    """A wrong batch must not reach native code."""
    with pytest.raises(EngineError, match=r"expected float32 of shape \(1 to 4, 1, 8, 8\)"):
        _open(tiny.onnx_bytes()).infer(batch)


def test_damaged_model_is_named():
    """The message says which subnet and precision, in one line."""
    with pytest.raises(EngineError, match=r"cannot load subnet large fp32: ") as caught:
        _open(b"not a model")
    assert "\n" not in str(caught.value)


def test_model_of_another_manifest_is_refused(tiny):
    """A model that takes other images than the manifest says must fail at the start, not at the first request."""
    with pytest.raises(EngineError, match=r"takes \{'input': \(1, 8, 8\)\}"):
        _open(tiny.onnx_bytes(), output_spec=dataclasses.replace(OUTPUT, classes=11))


def test_closed_engine_says_so(tiny, images):
    """Using an engine after a drain is our mistake, and must not crash the process."""
    engine = _open(tiny.onnx_bytes())
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(images[:1])


def test_a_core_is_left_for_the_server():
    """Threads for every core would make requests wait for the parser."""
    assert usable_cores() == len(os.sched_getaffinity(0))
    assert default_threads() == max(1, usable_cores() - 1)
