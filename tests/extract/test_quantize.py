"""Integers keep what the numbers said, also where one of them dwarfs the others."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from deps.extract.calibration import Range
from deps.extract.quantize import PROCESSOR, quantize


def _layer(weight: np.ndarray, bias: np.ndarray, operator: str) -> onnx.ModelProto:
    """A graph of one convolution of 1 x 1, or one linear layer, with 3 inputs and 2 outputs."""
    taken, given = ([1, 3, 4, 4], [1, 2, 4, 4]) if operator == "Conv" else ([1, 3], [1, 2])
    options = {} if operator == "Conv" else {"transB": 1}
    graph = helper.make_graph(
        [helper.make_node(operator, ["input", "weight", "bias"], ["logits"], name="layer", **options)],
        "layer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, taken)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, given)],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize("operator", ["Conv", "Gemm"])
@pytest.mark.parametrize("size", [1e3, -1e3, 1.0])
def test_a_bias_far_larger_than_all_products_is_kept(operator: str, size: float):
    """In steps of the products it would take more than 31 bits, and a bias cut off there is another network.

    The first output has that bias, the second an ordinary one, which must not pay for its neighbour.
    """
    rng = np.random.default_rng(0)
    weight = rng.uniform(-1e-4, 1e-4, (2, 3)).astype(np.float32)
    bias = np.array([size, 2e-7], np.float32)
    taken = rng.uniform(-1e-3, 1e-3, (1, 3, 4, 4) if operator == "Conv" else (1, 3)).astype(np.float32)
    model = _layer(weight[:, :, None, None] if operator == "Conv" else weight, bias, operator)
    (expected,) = ReferenceEvaluator(model).run(None, {"input": taken})
    ranges = {"input": Range(-1e-3, 1e-3), "logits": Range(float(expected.min()), float(expected.max()))}
    quantized = quantize(model, ranges, PROCESSOR)
    (found,) = ReferenceEvaluator(quantized).run(None, {"input": taken})
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], atol=5e-9)
    held = {tensor.name: tensor for tensor in quantized.graph.initializer}
    assert np.abs(numpy_helper.to_array(held["bias_quantized"]).astype(np.int64)).max() < 2**31 - 1
