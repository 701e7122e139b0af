"""Write the small graph that turns raw pixels into what the models take, once for all models of a bundle.

Relies on the data set's normalisation being one scale and one shift a channel, which BatchNormalization with the data
set's own mean and variance is; ``serve/engines/compose.py`` puts the graph in front of a model.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from deps.extract.session import open_session
from deps.ground.console import deps_version
from deps.ground.errors import ExportError
from deps.supernet.onnx_graph import BATCH, INPUT, OPSET
from deps.train.data import Preprocessing

IMAGE = "image"
"""Name of the input that takes raw pixels."""

TOLERANCE = 2e-6
"""Largest difference from training's normalisation; both round in float32, in another order."""


def raw_input_model(preprocessing: Preprocessing) -> onnx.ModelProto:
    """Return the graph from raw pixels, uint8 (N, C, H, W), to normalised images, float32 of the same shape.

    Any size of image goes in, so that a family whose members look at different resolutions shares one graph.

    Args:
        preprocessing: mean and standard deviation of each channel, of pixels scaled to 0..1.
    """
    mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
    constants = {"one": np.ones_like(mean), "zero": np.zeros_like(mean), "mean": 255 * mean, "var": (255 * std) ** 2}
    names = {name: f"{IMAGE}.{name}" for name in constants}
    nodes = [
        helper.make_node("Cast", [IMAGE], [f"{IMAGE}.float"], name=f"{IMAGE}.cast", to=TensorProto.FLOAT),
        helper.make_node(
            "BatchNormalization",
            [f"{IMAGE}.float", *names.values()],
            [INPUT],
            name=f"{IMAGE}.normalise",
            epsilon=0.0,
        ),
    ]
    shape: list[str | int | None] = [BATCH, len(mean), "height", "width"]
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "raw_input",
            inputs=[helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, shape)],
            outputs=[helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
            initializer=[
                numpy_helper.from_array(value.astype(np.float32), names[name]) for name, value in constants.items()
            ],
        ),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="deps",
        producer_version=deps_version(),
    )


def checked_raw_input(preprocessing: Preprocessing) -> bytes:
    """Return the file of the raw-pixel graph, after running it on every value that a pixel can have.

    Raises:
        ExportError: it does not normalise as training does.
    """
    model = raw_input_model(preprocessing)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(len(preprocessing.mean), axis=1)
    (found,) = open_session(model, "raw-pixel").run(None, {IMAGE: pixels})
    error = float(np.abs(found - preprocessing.normalise(torch.from_numpy(pixels)).numpy()).max())
    if not error <= TOLERANCE * max(1.0, float(np.abs(found).max())):
        raise ExportError(
            f"the raw-pixel graph is off by {error:.3g}; expected at most {TOLERANCE:g} of the largest value: "
            "this is a fault of deps: please report it with the mean and standard deviation of your data"
        )
    return bytes(model.SerializeToString(deterministic=True))
