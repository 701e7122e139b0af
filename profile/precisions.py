"""Turn the graph of a net to be timed into the form of another precision, with weights and scales that are made up.

``deps-extract`` converts trained graphs and needs calibration images and seconds for each; what is only timed needs the
same nodes between tensors of the same types. Relies on every large constant lying in a shared file (``SharedWeights``),
so that nothing but names and types changes. A test compares the result with what is shipped, node by node.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deps.ground.errors import LatencyTableError
from deps.serve.manifest import Precision
from deps.supernet.onnx_graph import INPUT, OFFSET_BYTES, SharedWeights, external_tensor

# Neither denormal nor infinite after a hundred layers: shifts of this size keep every map alive, and even a
# convolution of 512 channels amplifies by less than 2.
NOISE_STD = 0.05

WEIGHTS = SharedWeights("noise.fp32")
"""Where the graph writer finds the weights of the float32 form."""

# Weights of seven bits, as processors without VNNI need them; a step of this size gives the same noise as float32.
_STEP = NOISE_STD / 20
_ACTIVATION_STEP = 1 / 16

_KINDS = {
    "fp32": (TensorProto.FLOAT, 4),
    "fp16": (TensorProto.FLOAT16, 2),
    "int8": (TensorProto.INT8, 1),
    "int32": (TensorProto.INT32, 4),
}

_LITTLE_ENDIAN = {"fp32": "<f4", "fp16": "<f2", "int8": "<i1", "int32": "<i4"}

_FILES: dict[Precision, tuple[str, ...]] = {
    "fp32": ("noise.fp32",),
    "fp16": ("noise.fp16",),
    "cpu-int8": ("noise.int8", "noise.int32", "scale.fp32", "bias-scale.fp32", "zero.int8", "zero.int32"),
    "trt-int8": ("noise.int8", "noise.fp16", "scale.fp16", "zero.int8"),
}


def shared_files(precision: Precision) -> tuple[str, ...]:
    """Return the names of the files that graphs of a precision take their constants from."""
    return _FILES[precision]


def shared_values(file: str, noise: NDArray[np.float32]) -> bytes:
    """Return the content of a shared file, made of as many numbers as ``noise`` has.

    Args:
        file: one of ``shared_files``.
        noise: normal, with standard deviation ``NOISE_STD``.
    """
    what, _, kind = file.partition(".")
    if what == "zero":
        values: NDArray[Any] = np.zeros(len(noise))
    elif what == "scale":
        values = np.full(len(noise), _STEP)
    elif what == "bias-scale":
        values = np.full(len(noise), _STEP * _ACTIVATION_STEP)
    elif kind == "int8":
        values = np.clip(np.rint(noise / _STEP), -64, 63)
    elif kind == "int32":
        values = np.rint(noise / (_STEP * _ACTIVATION_STEP))
    else:
        values = noise
    return bytes(values.astype(_LITTLE_ENDIAN[kind]).tobytes())


def in_precision(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """Return a float32 graph whose weights are shared in the form that is shipped in a precision; changes ``model``.

    Raises:
        LatencyTableError: the precision is unknown.
    """
    if precision not in _FILES:
        known = ", ".join(_FILES)
        raise LatencyTableError(f"precision is {precision!r}; expected one of {known}; change --precision")
    if precision in ("cpu-int8", "trt-int8"):
        is_for_cpu = precision == "cpu-int8"
        _Quantizer(model.graph, TensorProto.UINT8 if is_for_cpu else TensorProto.INT8, has_bias=is_for_cpu).run()
    if precision in ("fp16", "trt-int8"):
        _halve(model.graph)
    return model


class _Quantizer:
    """Puts quantise and dequantise pairs around convolutions and linear layers, one scale per output channel."""

    def __init__(self, graph: onnx.GraphProto, activations: int, *, has_bias: bool) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.has_bias = has_bias
        quantized = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
        self.tensors = {name for node in quantized for name in (node.input[0], node.output[0])}
        zero = np.array(128, np.uint8) if activations == TensorProto.UINT8 else np.array(0, np.int8)
        self.step = ["activation.scale", "activation.zero"]
        graph.initializer.append(numpy_helper.from_array(np.array(_ACTIVATION_STEP, np.float32), self.step[0]))
        graph.initializer.append(numpy_helper.from_array(zero, self.step[1]))

    def run(self) -> None:
        nodes = [*self._pair(INPUT)] if INPUT in self.tensors else []
        outputs = {value.name for value in self.graph.output}
        for node in self.graph.node:
            if node.op_type in ("Conv", "Gemm"):
                nodes += self._constants_of(node)
            for index, name in enumerate(node.input):
                if name in self.tensors:
                    node.input[index] = f"{name}.dequantized"
            (output,) = node.output
            nodes.append(node)
            if output in outputs and output in self.tensors:
                node.output[0] = f"{output}.raw"
                nodes += self._pair(output, source=f"{output}.raw", target=output)
            elif output in self.tensors:
                nodes += self._pair(output)
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def _pair(self, name: str, *, source: str | None = None, target: str | None = None) -> Iterator[onnx.NodeProto]:
        """Yield the pair behind one activation, which every reader of it then reads through."""
        middle = f"{name}.quantized"
        yield helper.make_node("QuantizeLinear", [source or name, *self.step], [middle], name=middle)
        target = target or f"{name}.dequantized"
        yield helper.make_node("DequantizeLinear", [middle, *self.step], [target], name=f"{name}.dequantized")

    def _constants_of(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """Yield what turns the integers of a layer's weight, and bias, into numbers."""
        scales = {1: "scale.fp32", 2: "bias-scale.fp32"}
        kinds = {1: "int8", 2: "int32"} if self.has_bias else {1: "int8"}
        for index, kind in kinds.items():
            if index >= len(node.input):
                continue
            name = node.input[index]
            channels = (int(self.constants[name].dims[0]),)
            _place(self.constants[name], f"noise.{kind}")
            around = (f"{name}.scale", f"{name}.zero")
            for constant, file in zip(around, (scales[index], f"zero.{kind}"), strict=True):
                self.graph.initializer.append(
                    _constant(constant, file, channels, OFFSET_BYTES * len(self.graph.initializer))
                )
            node.input[index] = f"{name}.dequantized"
            yield helper.make_node(
                "DequantizeLinear", [name, *around], [node.input[index]], name=node.input[index], axis=0
            )


def _constant(name: str, file: str, shape: tuple[int, ...], offset: int) -> TensorProto:
    """Return a constant made of numbers of a shared file, of the type that the file holds."""
    kind, width = _KINDS[file.partition(".")[2]]
    return external_tensor(name, kind, shape, file, width * math.prod(shape), offset)


def _place(tensor: TensorProto, file: str) -> None:
    """Let a constant take its numbers from another shared file."""
    (offset,) = [int(entry.value) for entry in tensor.external_data if entry.key == "offset"]
    tensor.CopyFrom(_constant(tensor.name, file, tuple(tensor.dims), offset))


def _halve(graph: onnx.GraphProto) -> None:
    """Turn every float32 into fp16, what goes in and out excepted."""
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        if tensor.external_data:
            (location,) = [entry.value for entry in tensor.external_data if entry.key == "location"]
            _place(tensor, location.replace("fp32", "fp16"))
        else:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    inner, (output,) = f"{INPUT}.half", [value.name for value in graph.output]
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == INPUT:
                node.input[index] = inner
        if node.output[0] == output:
            node.output[0] = f"{output}.half"
    first = helper.make_node("Cast", [INPUT], [inner], name=inner, to=TensorProto.FLOAT16)
    last = helper.make_node("Cast", [f"{output}.half"], [output], name=f"{output}.half", to=TensorProto.FLOAT)
    nodes = [first, *graph.node, last]
    del graph.node[:]
    graph.node.extend(nodes)
