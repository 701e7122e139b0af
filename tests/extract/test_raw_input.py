"""Raw pixels through the small graph are what training made of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torchvision.transforms import functional

from deps.extract.raw_input import IMAGE, checked_raw_input, raw_input_model
from deps.ground.errors import ExportError
from deps.serve.engines.compose import with_raw_input
from deps.train.data import Preprocessing

IMAGENET = Preprocessing(
    color="RGB", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=224, interpolation="bilinear"
)


@pytest.mark.parametrize("size", [8, 21])
def test_pixels_are_normalised_as_torchvision_does_it(size: int):
    """In one graph for every resolution and every batch."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, size, size), dtype=np.uint8)
    session = onnxruntime.InferenceSession(checked_raw_input(IMAGENET), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {IMAGE: pixels})
    expected = functional.normalize(torch.from_numpy(pixels).float() / 255, IMAGENET.mean, IMAGENET.std)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6, rtol=0)


def test_every_precision_takes_raw_pixels_and_answers_as_before(exports, run):
    """The small graph goes in front of each file as it is; the answers to real images are those of the file alone."""
    split = run.data().test.first(50)
    raw = checked_raw_input(split.preprocessing)
    x = next(iter(split.batches(50)))[0].numpy()
    for entry in exports.entries:
        joined = with_raw_input(entry.content, raw)
        onnx.checker.check_model(onnx.load_from_string(joined), full_check=True)
        answers = [
            onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {name: images})[0]
            for content, name, images in (
                (joined, IMAGE, split.pixels_NCHW.numpy()),
                (entry.content, "input", x),
            )
        ]
        # A pixel on the edge between two integer steps may fall to the other side.
        tolerance = 1e-4 if entry.precision == "fp32" else 0.5
        np.testing.assert_allclose(*answers, atol=tolerance, rtol=0)
        assert (answers[0].argmax(1) == answers[1].argmax(1)).mean() >= 0.98


def test_a_graph_that_normalises_otherwise_is_caught(monkeypatch):
    """Before it enters a bundle."""
    other = Preprocessing(
        color="RGB", mean=(0.4, 0.456, 0.406), std=IMAGENET.std, resize=256, crop=224, interpolation="bilinear"
    )
    monkeypatch.setattr("deps.extract.raw_input.raw_input_model", lambda _: raw_input_model(other))
    with pytest.raises(ExportError, match="raw-pixel graph is off by"):
        checked_raw_input(IMAGENET)
