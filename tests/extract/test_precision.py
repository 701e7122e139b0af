"""Every precision is what its name says, runs, and does not touch the original."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from deps.extract.calibration import observe
from deps.extract.precision import PRECISIONS, SCHEMES, half, widened
from deps.extract.quantize import quantize
from deps.extract.session import open_session
from deps.supernet.onnx_graph import INPUT, onnx_from_subnet
from deps.supernet.plan import plan


@pytest.fixture(scope="module")
def calibration(run):
    """Real training images."""
    return [batch.numpy() for batch in run.data().calibration(8, images=100)]


@pytest.fixture(scope="module")
def original(digits, smallest, evaluator):
    """The float32 graph of the smallest subnet."""
    state = {name: tensor.numpy() for name, tensor in evaluator.subnet(smallest).state_dict().items()}
    return onnx_from_subnet(plan(digits, smallest), state, eps=digits.norm_eps)


@pytest.fixture(scope="module")
def converted(exports):
    """The files of the smallest subnet."""
    return {entry.precision: onnx.load_from_string(entry.content) for entry in exports.entries}


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def test_the_original_stays_as_it_is(original, calibration):
    """All precisions come from the same graph, in whatever order they are made."""
    before = original.SerializeToString(deterministic=True)
    ranges = observe(original, calibration).ranges("minmax")
    for scheme in SCHEMES.values():
        quantize(original, ranges, scheme)
    half(original)
    assert original.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("precision", PRECISIONS)
def test_inputs_and_outputs_stay_float32(converted, precision):
    """A server prepares one kind of input, whatever the precision."""
    graph = converted[precision].graph
    (given,), (answer,) = graph.input, graph.output
    assert (given.name, answer.name) == ("input", "logits")
    assert given.type.tensor_type.elem_type == answer.type.tensor_type.elem_type == TensorProto.FLOAT
    assert given.type.tensor_type.shape.dim[0].dim_param


def test_fp16_has_no_float32_weight_left(converted):
    """Half the size is the point."""
    kinds = {tensor.data_type for tensor in constants(converted["fp16"]).values()}
    assert TensorProto.FLOAT not in kinds
    assert TensorProto.FLOAT16 in kinds


def test_trt_int8_is_symmetric_per_channel_and_has_no_integer_bias(converted):
    """TensorRT wants zero points of 0, and its parser fails on an int32 bias; the rest of the graph runs in fp16."""
    model = converted["trt-int8"]
    held = constants(model)
    assert model.opset_import[0].version >= 19
    assert TensorProto.INT32 not in {tensor.data_type for tensor in held.values()}
    assert TensorProto.FLOAT not in {tensor.data_type for tensor in held.values()}
    zero_points = [numpy_helper.to_array(t) for name, t in held.items() if name.endswith("zero_point")]
    assert zero_points
    assert all(z.dtype == np.int8 and not z.any() for z in zero_points)
    stem = next(name for name in held if name.endswith("weight_scale") and "stem" in name)
    assert numpy_helper.to_array(held[stem]).size > 1


def test_widened_graph_holds_the_files_numbers_in_float32(converted, calibration):
    """It answers in the file's place, so it must be the file's own numbers, and close to its answers."""
    model = converted["trt-int8"]
    before = model.SerializeToString()
    wide = widened(model)
    assert model.SerializeToString() == before
    held, kept = constants(model), constants(wide)
    assert held.keys() == kept.keys()
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in kept.values()}
    for name, tensor in kept.items():
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(held[name]))
    sessions = [open_session(graph, "trt-int8", is_literal=True) for graph in (model, wide)]
    own, other = (session.run(None, {INPUT: calibration[0]})[0] for session in sessions)
    assert other.dtype == np.float32
    assert 0 < np.abs(own - other).max() < 0.2 * np.abs(own).max()


def test_cpu_int8_weights_stay_within_seven_bits(converted):
    """Eight bits overflow in the integer kernels of processors without VNNI, in silence."""
    held = constants(converted["cpu-int8"])
    weights = [numpy_helper.to_array(t) for name, t in held.items() if name.endswith("weight_quantized")]
    assert weights
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) <= 64
    activations = next(t for name, t in held.items() if name == "input_zero_point")
    assert activations.data_type == TensorProto.UINT8


def test_only_convolutions_and_linear_layers_are_quantised(converted):
    """Everything else gains nothing from eight bits and loses accuracy."""
    for precision in ("trt-int8", "cpu-int8"):
        graph = converted[precision].graph
        makers = {node.output[0]: node for node in graph.node}
        for node in graph.node:
            feeds = {makers[name].op_type for name in node.input if name in makers}
            if node.op_type in ("Conv", "Gemm"):
                assert "DequantizeLinear" in feeds, node.name
            elif node.op_type in ("HardSwish", "HardSigmoid"):
                assert feeds <= {"Conv", "DequantizeLinear", "Cast"}


@pytest.mark.parametrize(("precision", "steps"), [("trt-int8", 127), ("cpu-int8", 64)])
def test_weights_are_rounded_by_the_scale_of_their_channel_as_the_file_holds_it(converted, precision, steps):
    """One scale for all would cost the quiet channels; one that fp16 rounds afterwards would shift every weight."""
    weights, held = constants(converted["fp32"]), constants(converted[precision])
    names = [name.removesuffix("_quantized") for name in held if name.endswith("weight_quantized")]
    assert len(names) > 10
    for name in names:
        weight = numpy_helper.to_array(weights[name]).astype(np.float64)
        channels = weight.reshape(len(weight), -1)
        scale_O = numpy_helper.to_array(held[f"{name}_scale"]).astype(np.float64)
        integers = numpy_helper.to_array(held[f"{name}_quantized"]).reshape(channels.shape)
        np.testing.assert_allclose(scale_O, np.abs(channels).max(axis=1) / steps, rtol=2**-10)
        np.testing.assert_array_equal(integers, np.round(channels / scale_O[:, None]).clip(-steps, steps))
