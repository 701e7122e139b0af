"""Write quantise and dequantise steps around the convolutions and linear layers of a float32 graph.

Relies on ranges that ``calibration.py`` found. Weights are symmetric with a scale for each output channel. A graph for
TensorRT is quantised where layers take something, one for processors also where they give something, since only then
do integer kernels follow one another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from deps.extract.calibration import QUANTIZED_OPERATORS, Range, Readers


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How numbers become integers."""

    is_unsigned: bool
    """Activations from 0 to 255 with a zero point; otherwise from -127 to 127 around 0."""

    weight_steps: int
    """Largest integer of a weight."""

    has_integer_bias: bool
    """Whether biases become int32, with the scale of the products."""

    quantizes_results: bool
    """Whether what a layer gives is quantised too."""

    has_half_scales: bool
    """Whether scales are rounded to fp16, as the graph will hold them, before anything is divided by them."""


TENSORRT = Scheme(
    is_unsigned=False, weight_steps=127, has_integer_bias=False, quantizes_results=False, has_half_scales=True
)
"""Symmetric on both sides; an int32 bias would make the parser fail."""

PROCESSOR = Scheme(
    is_unsigned=True, weight_steps=64, has_integer_bias=True, quantizes_results=True, has_half_scales=False
)
"""Without VNNI an x86 adds pairs of U8 x S8 products in 16 bits, which eight-bit weights overflow in silence (measured
on the digits: largest error of a logit 1.24 instead of 0.30). Seven bits give the same answer everywhere."""


def quantizable(model: onnx.ModelProto) -> list[str]:
    """Return the names of the layers that may be quantised, in order."""
    return [node.name for node in model.graph.node if node.op_type in QUANTIZED_OPERATORS]


def quantize(
    model: onnx.ModelProto, ranges: Mapping[str, Range], scheme: Scheme, *, excluded: Collection[str] = ()
) -> onnx.ModelProto:
    """Return the graph with its layers quantised; the original stays as it is.

    Args:
        model: float32 graph, batch norms folded in.
        ranges: of each tensor that a layer takes or gives.
        scheme: how numbers become integers.
        excluded: layers that stay in floating point.
    """
    return _Quantizer(model, ranges, scheme, frozenset(excluded)).model()


def rehearsed(
    model: onnx.ModelProto, ranges: Mapping[str, Range], scheme: Scheme
) -> tuple[onnx.ModelProto, dict[str, tuple[str, str]]]:
    """Return the float32 graph with a quantised twin beside each layer, which takes what the layer takes unquantised.

    So the error of every layer alone can be read off in one run.

    Returns:
        The graph, without further outputs, and by layer the tensor it gives and its twin's.
    """
    return _Quantizer(model, ranges, scheme, frozenset()).rehearsal()


class _Quantizer:
    """The graph as far as it is written; each method adds one part and returns the name of its output."""

    def __init__(
        self, model: onnx.ModelProto, ranges: Mapping[str, Range], scheme: Scheme, excluded: frozenset[str]
    ) -> None:
        self._original, self._ranges, self._scheme, self._excluded = model, ranges, scheme, excluded
        self._readers = Readers(model)
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._outputs = {value.name for value in model.graph.output}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._pairs: dict[str, str] = {}  # a tensor, and what it is after quantising and dequantising
        self._replaced: dict[str, str] = {}  # what everybody shall read instead of a tensor

    def model(self) -> onnx.ModelProto:
        """Return the whole graph."""
        chosen = {node.name for node in self._original.graph.node if node.op_type in QUANTIZED_OPERATORS}
        chosen -= self._excluded
        ends = {self._readers.result(node) for node in self._original.graph.node if node.name in chosen}
        for node in self._original.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [self._replaced.get(name, name) for name in node.input]
            if node.name in chosen:
                self._quantize_layer(node, copy)
            self._nodes.append(copy)
            if self._scheme.quantizes_results and node.output[0] in ends and node.output[0] not in self._outputs:
                self._replaced[node.output[0]] = self._pair(node.output[0])
        return self._written()

    def rehearsal(self) -> tuple[onnx.ModelProto, dict[str, tuple[str, str]]]:
        """Return the graph with twins, and the tensors that a layer and its twin give."""
        twins: dict[str, tuple[str, str]] = {}
        waiting: dict[str, onnx.NodeProto] = {}  # layers whose ReLU or clip is still to come, by what that gives
        for node in self._original.graph.node:
            self._nodes.append(node)
            if node.op_type in QUANTIZED_OPERATORS:
                waiting[self._readers.result(node)] = node
            layer = waiting.pop(node.output[0], None)
            if layer is None:
                continue
            given = node.output[0]
            copy = onnx.NodeProto()
            copy.CopyFrom(layer)
            self._quantize_layer(layer, copy)
            copy.name, copy.output[0] = f"{layer.name}.twin", f"{layer.output[0]}_twin"
            self._nodes.append(copy)
            twin = copy.output[0]
            if given != layer.output[0]:
                follower = onnx.NodeProto()
                follower.CopyFrom(node)
                follower.name, follower.input[0], follower.output[0] = f"{node.name}.twin", twin, f"{given}_twin"
                self._nodes.append(follower)
                twin = follower.output[0]
            if self._scheme.quantizes_results and given not in self._outputs:
                # The twin's own result goes through the steps of the layer's range.
                self._ranges = {**self._ranges, twin: self._ranges[given]}
                twin = self._pair(twin)
            twins[layer.name] = (given, twin)
        return self._written(), twins

    def _written(self) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self._original)
        del model.graph.node[:]
        model.graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for name, tensor in self._weights.items() if name in used]
        del model.graph.initializer[:]
        model.graph.initializer.extend([*kept, *self._constants.values()])
        return model

    def _quantize_layer(self, node: onnx.NodeProto, copy: onnx.NodeProto) -> None:
        taken = node.input[0]
        if taken not in self._replaced:  # otherwise it comes through a pair already
            copy.input[0] = self._pair(taken)
        scale = self._activation(taken)[0]
        weight = numpy_helper.to_array(self._weights[node.input[1]]).astype(np.float64)
        bias = numpy_helper.to_array(self._weights[node.input[2]]).astype(np.float64) if len(node.input) > 2 else None
        steps = self._scheme.weight_steps
        weight_scale_O = np.abs(weight.reshape(len(weight), -1)).max(axis=1) / steps
        if self._scheme.has_integer_bias and bias is not None:
            # A bias far larger than all products would leave the range of int32.
            weight_scale_O = np.maximum(weight_scale_O, np.abs(bias) / (scale * 2**30))
        weight_scale_O = self._scale(weight_scale_O)
        shape = (-1,) + (1,) * (weight.ndim - 1)
        integers = np.round(weight / weight_scale_O.reshape(shape)).clip(-steps, steps)
        copy.input[1] = self._stored(node.input[1], integers.astype(np.int8), weight_scale_O)
        if self._scheme.has_integer_bias and bias is not None:
            bias_scale_O = (scale * weight_scale_O).astype(np.float32)
            integers = np.round(bias / bias_scale_O).clip(-(2**31) + 1, 2**31 - 1)
            copy.input[2] = self._stored(node.input[2], integers.astype(np.int32), bias_scale_O)

    def _scale(self, scale: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return scales that a graph can hold; where everything is 0, any will do."""
        scale = np.where(scale > 0, scale, 1.0)
        if self._scheme.has_half_scales:
            # Below 2**-20 fp16 has so few bits left that the scale itself would be wrong by more than a step in 16.
            return scale.clip(2.0**-20, 60000).astype(np.float16).astype(np.float32)
        return np.maximum(scale, 1e-30).astype(np.float32)

    def _activation(self, name: str) -> tuple[float, int]:
        """Return scale and zero point of a tensor."""
        low, high = min(self._ranges[name].low, 0.0), max(self._ranges[name].high, 0.0)
        if not self._scheme.is_unsigned:
            return float(self._scale(np.array(max(-low, high) / 127))), 0
        scale = float(self._scale(np.array((high - low) / 255)))
        return scale, int(np.clip(np.round(-low / scale), 0, 255))

    def _pair(self, name: str) -> str:
        """Quantise and dequantise a tensor, once."""
        if name in self._pairs:
            return self._pairs[name]
        scale, zero = self._activation(name)
        kind = np.uint8 if self._scheme.is_unsigned else np.int8
        names = [self._constant(f"{name}_scale", np.array(scale, np.float32))]
        names.append(self._constant(f"{name}_zero_point", np.array(zero, kind)))
        whole, back = f"{name}_quantized", f"{name}_dequantized"
        self._nodes.append(helper.make_node("QuantizeLinear", [name, *names], [whole], name=f"{name}.quantize"))
        self._nodes.append(helper.make_node("DequantizeLinear", [whole, *names], [back], name=f"{name}.dequantize"))
        self._pairs[name] = back
        return back

    def _stored(self, name: str, integers: NDArray[Any], scale_O: NDArray[np.float32]) -> str:
        """Keep a constant as integers, with a scale for each output channel."""
        back = f"{name}_dequantized"
        if f"{name}_quantized" not in self._constants:
            names = [
                self._constant(f"{name}_quantized", integers),
                self._constant(f"{name}_scale", scale_O),
                self._constant(f"{name}_zero_point", np.zeros(len(scale_O), integers.dtype)),
            ]
            self._nodes.append(helper.make_node("DequantizeLinear", names, [back], name=f"{name}.dequantize", axis=0))
        return back

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self._constants[name] = numpy_helper.from_array(value, name)
        return name
