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
# 255 steps end below 6, so that a clip at 6 is part of the steps behind it, as in a trained graph.
_ACTIVATION_STEP = 1 / 43

_KINDS = {
    "fp32": (TensorProto.FLOAT, 4),
    "fp16": (TensorProto.FLOAT16, 2),
    "int8": (TensorProto.INT8, 1),
    "int32": (TensorProto.INT32, 4),
}

_LAYERS = ("Conv", "Gemm")
"""What is quantised."""

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
        _Quantizer(model.graph, is_for_cpu=precision == "cpu-int8").run()
    if precision in ("fp16", "trt-int8"):
        _halve(model.graph)
    return model


class _Quantizer:
    """Puts quantise and dequantise steps where extraction puts them, with one scale per output channel of a weight.

    For TensorRT: before what a layer takes. For processors also behind what a layer gives, for all who read it.
    """

    def __init__(self, graph: onnx.GraphProto, *, is_for_cpu: bool) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.has_bias = is_for_cpu
        outputs = {value.name for value in graph.output}
        layers = [node for node in graph.node if node.op_type in _LAYERS]
        self.given = {self._result(node) for node in layers} - outputs if is_for_cpu else set()
        zero = np.array(128, np.uint8) if is_for_cpu else np.array(0, np.int8)
        self.step = ["activation.scale", "activation.zero"]
        graph.initializer.append(numpy_helper.from_array(np.array(_ACTIVATION_STEP, np.float32), self.step[0]))
        graph.initializer.append(numpy_helper.from_array(zero, self.step[1]))
        # What comes out of a ReLU or clip is not negative; with another zero point the layer before stays in float32.
        self.positive = self.given - {node.output[0] for node in layers}
        if self.positive:
            graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint8), "positive.zero"))

    def _result(self, layer: onnx.NodeProto) -> str:
        """Return what a layer gives: the output of the ReLU or clip behind it, where nothing else reads its own."""
        readers = [node for node in self.graph.node if layer.output[0] in node.input]
        if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
            return str(readers[0].output[0])
        return str(layer.output[0])

    def run(self) -> None:
        nodes: list[onnx.NodeProto] = []
        paired: set[str] = set()
        for node in self.graph.node:
            for index, name in enumerate(node.input):
                if name in self.given:
                    node.input[index] = _dequantized(name)
                elif index == 0 and node.op_type in _LAYERS:
                    if name not in paired:
                        nodes += self._pair(name)
                        paired.add(name)
                    node.input[0] = _dequantized(name)
            if node.op_type in _LAYERS:
                nodes += self._constants_of(node)
            nodes.append(node)
            if node.output[0] in self.given:
                nodes += self._pair(node.output[0])
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def _pair(self, name: str) -> Iterator[onnx.NodeProto]:
        """Yield the two steps behind one activation."""
        middle, back = f"{name}.quantized", _dequantized(name)
        step = [self.step[0], "positive.zero"] if name in self.positive else self.step
        yield helper.make_node("QuantizeLinear", [name, *step], [middle], name=middle)
        yield helper.make_node("DequantizeLinear", [middle, *step], [back], name=back)

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


def _dequantized(name: str) -> str:
    return f"{name}.dequantized"


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
