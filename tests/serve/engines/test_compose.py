"""A model with the raw-pixel graph in front is one valid model, made without onnx, that answers as before."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deps.ground.errors import BundleError
from deps.serve.engines.builder import BuildSettings, build_engine
from deps.serve.engines.compose import with_raw_input
from deps.serve.manifest import BatchProfile

MEAN, STD = 0.5, 0.25


def raw_graph(
    *, output: str = "input", opset: int = 20, element: int = TensorProto.UINT8, channels: int = 1, inside: str = "f"
) -> bytes:
    """The pixels of any size, normalised."""
    shape = ["batch", channels, "height", "width"]
    nodes = [
        helper.make_node("Cast", ["image"], [inside], to=TensorProto.FLOAT),
        helper.make_node("Mul", [inside, "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], [output]),
    ]
    constants = {"scale": 1 / (255 * STD), "shift": -MEAN / STD}
    graph = helper.make_graph(
        nodes,
        "raw",
        [helper.make_tensor_value_info("image", element, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9).SerializeToString()


def test_the_joined_model_is_valid_and_answers_as_the_model_does(tiny):
    """ONNX's checker with shapes, and ONNX Runtime, which computes what the model computes of normalised pixels."""
    joined = onnx.load_from_string(with_raw_input(tiny.onnx_bytes(), raw_graph()))
    onnx.checker.check_model(joined, full_check=True)
    (taken,), (given_,) = joined.graph.input, joined.graph.output
    assert (taken.name, given_.name) == ("image", "logits")
    assert taken.type.tensor_type.elem_type == TensorProto.UINT8
    sizes = taken.type.tensor_type.shape.dim
    assert sizes[0].dim_param == "batch"
    assert [size.dim_value for size in sizes[1:]] == [1, 8, 8]
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
    session = onnxruntime.InferenceSession(joined.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": pixels})
    np.testing.assert_allclose(logits, tiny.logits((pixels / 255 - MEAN) / STD), rtol=1e-4, atol=1e-4)


def test_nothing_of_the_model_is_lost(tiny):
    """Weights, metadata, versions and every node stand in the joined file as they stood in the model."""
    model = onnx.load_from_string(tiny.onnx_bytes())
    helper.set_model_props(model, {"deps.subnet": "tiny"})
    joined = onnx.load_from_string(with_raw_input(model.SerializeToString(), raw_graph()))
    assert list(joined.metadata_props) == list(model.metadata_props)
    assert (joined.ir_version, joined.opset_import[0].version) == (9, 20)
    assert list(joined.graph.node)[3:] == list(model.graph.node)
    assert list(joined.graph.initializer)[: len(model.graph.initializer)] == list(model.graph.initializer)
    assert [value.name for value in joined.graph.value_info] == ["input"]


@pytest.mark.tensorrt
def test_tensorrt_builds_an_engine_of_the_joined_model(tiny):
    """Of any batch the profile holds, with bytes as the input."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    settings = BuildSettings(profile=BatchProfile(min=1, opt=2, max=4), precision="fp32")
    assert build_engine(with_raw_input(tiny.onnx_bytes(), raw_graph()), settings, runtime="tensorrt_rtx").engine
    assert trt


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output": "other"}, "takes 'input'; expected 'other'"),
        ({"opset": 17}, "opset 20; expected 17"),
        ({"element": TensorProto.INT8}, "expected 2 to 1"),
        ({"channels": 3}, r"shape \[0, 1, 8, 8\]; expected one that fits \[0, 3, 0, 0\]"),
        ({"inside": "conv"}, "both graphs define conv"),
    ],
)
def test_files_that_do_not_fit_are_told_apart(tiny, settings, message):
    """A mixed-up pair must not become a graph that computes something else."""
    with pytest.raises(BundleError, match=message):
        with_raw_input(tiny.onnx_bytes(), raw_graph(**settings))


@given(st.binary(max_size=60))
def test_bytes_of_any_kind_are_refused_and_never_crash(content: bytes):
    """The hash vouches for the file, not for its writer."""
    with pytest.raises(BundleError, match="is damaged"):
        with_raw_input(content, raw_graph())


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_model_that_is_cut_short_is_refused(tiny, kept: float):
    """Wherever it was cut."""
    model = tiny.onnx_bytes()
    with pytest.raises(BundleError, match="the model is damaged"):
        with_raw_input(model[: int(kept * len(model))], raw_graph())


def test_joining_needs_neither_onnx_nor_protobuf():
    """A device has neither."""
    code = (
        "import sys, deps.serve.engines.compose; print(sorted({'onnx', 'google.protobuf', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
