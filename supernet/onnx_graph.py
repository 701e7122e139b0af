"""The ONNX graph of one subnet, written node by node from its plan; nothing is traced, so it takes milliseconds.

Relies on ``plan.py`` for the layers and on numpy weights by the names of the plain network; no torch. Every node is
named after the parameters it uses (``stages.2.1.expand.conv``) and its one output is called like the node, so a
profiler's line, a quantizer's node and a latency key all lead back to a piece of the plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deps.ground.console import deps_version
from deps.ground.errors import ExportError
from deps.supernet.pieces import (
    BottleneckPlan,
    ConvPlan,
    InvertedPlan,
    LinearPlan,
    Piece,
    PoolPlan,
    SqueezePlan,
    input_shape,
)
from deps.supernet.plan import NetworkPlan

Weights: TypeAlias = Mapping[str, NDArray[Any]]

INPUT, OUTPUT, BATCH = "input", "logits", "batch"

OFFSET_BYTES = 64
"""Between the beginnings of tensors in a shared file."""


@dataclass(frozen=True, slots=True)
class SharedWeights:
    """Weights whose values do not matter: all tensors take theirs from one file beside the model, and overlap there.

    Tensor number n begins ``n * OFFSET_BYTES`` into the file: TensorRT takes weights for the same that begin at the
    same address, and then refuses that they differ in length.
    """

    file: str
    """Name of a file of little-endian float32 numbers."""


OPSET = 20
"""Read by ONNX Runtime 1.17, TensorRT 10, 11 and RTX; from 19 on, quantization scales may be fp16."""

OLDEST_OPSET = 14
"""The first with HardSwish; ask for 17 where TensorRT 8.6 must read the graph."""


def onnx_from_subnet(
    subnet: NetworkPlan,
    weights: Weights | SharedWeights,
    *,
    eps: float,
    metadata: Mapping[str, str] | None = None,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Return the graph of one subnet, BatchNorm folded into the convolutions.

    The input is called ``input``, float32 of shape (batch, channels, resolution, resolution); the output is called
    ``logits``, of shape (batch, classes).

    Args:
        subnet: its plan.
        weights: its tensors by name, as the state of the plain network holds them; others are ignored. Shared weights
            are not read, and the model then says where they lie: what is to be timed need not be stored fifty times.
        eps: what BatchNorm adds to the variance, ``space.norm_eps``.
        metadata: written into the model's ``metadata_props``, in the order of its keys.
        opset: version of the ONNX operators; the IR version is the oldest that has them.

    Raises:
        ExportError: a tensor is missing, of another shape or not finite, or the opset lacks an operator.
    """
    graph = _Graph(weights, eps)
    value = INPUT
    for piece in subnet.pieces():
        value = graph.add_piece(piece, value)
    assert value == OUTPUT

    shape_in = (subnet.in_channels, subnet.resolution, subnet.resolution)
    model = _model(graph, shape_in, (subnet.classifier.features_out,), opset)
    if metadata:
        helper.set_model_props(model, dict(sorted(metadata.items())))
    return model


def onnx_from_piece(
    piece: Piece, weights: Weights | SharedWeights, *, eps: float, opset: int = OPSET
) -> onnx.ModelProto:
    """Return the graph of one piece alone; arguments and errors are those of ``onnx_from_subnet``.

    The input is called ``input``, of shape (batch, *input_shape(piece)); the output is called ``logits``.
    """
    graph = _Graph(weights, eps)
    graph.add_piece(piece, INPUT)
    graph.nodes[-1].output[0] = OUTPUT
    return _model(graph, input_shape(piece), None, opset)


def _model(graph: _Graph, shape_in: tuple[int, ...], shape_out: tuple[int, ...] | None, opset: int) -> onnx.ModelProto:
    """Return the model of a graph; ``shape_out`` is None where the runtime shall infer it."""
    if not OLDEST_OPSET <= opset <= onnx.defs.onnx_opset_version():
        newest = onnx.defs.onnx_opset_version()
        raise ExportError(f"opset is {opset}; expected {OLDEST_OPSET} to {newest}, e.g. {OPSET}")
    opsets = [helper.make_opsetid("", opset)]
    dims_out: list[str | int | None] | None = None if shape_out is None else [BATCH, *shape_out]
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "subnet",
            inputs=[helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [BATCH, *shape_in])],
            outputs=[helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, dims_out)],
            initializer=graph.initializers,
        ),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="deps",
        producer_version=deps_version(),
    )


class _Graph:
    """The nodes and constants written so far; each method adds one part and returns the name of its output."""

    def __init__(self, weights: Weights | SharedWeights, eps: float) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._weights = weights
        self._eps = eps

    def add_piece(self, piece: Piece, x: str) -> str:
        if isinstance(piece, ConvPlan):
            return self._conv_norm(piece, x)
        if isinstance(piece, InvertedPlan):
            return self._inverted(piece, x)
        if isinstance(piece, BottleneckPlan):
            return self._bottleneck(piece, x)
        if isinstance(piece, PoolPlan):
            return self._pool(piece, x)
        return self._classifier(piece, x)

    def _inverted(self, block: InvertedPlan, x: str) -> str:
        y = self._conv_norm(block.expand, x) if block.expand else x
        y = self._conv_norm(block.depthwise, y)
        if block.squeeze:
            y = self._squeeze_excite(block.squeeze, y)
        y = self._conv_norm(block.project, y)
        return self._node("Add", f"{block.name}.add", y, x) if block.has_shortcut else y

    def _bottleneck(self, block: BottleneckPlan, x: str) -> str:
        y = self._conv_norm(block.restore, self._conv_norm(block.spatial, self._conv_norm(block.reduce, x)))
        if block.shortcut:
            if block.pool > 1:
                # Windows that reach over the edge average what lies inside, as torch does in ceil mode. An even map has
                # none, and a graph without the attribute is understood by more runtimes.
                window: dict[str, Any] = {"kernel_shape": [block.pool] * 2, "strides": [block.pool] * 2}
                if block.reduce.size_in % block.pool:
                    window["ceil_mode"] = 1
                x = self._node("AveragePool", f"{block.name}.pool", x, **window)
            x = self._conv_norm(block.shortcut, x)
        return self._activation(block.activation, block.name, self._node("Add", f"{block.name}.add", y, x))

    def _squeeze_excite(self, squeeze: SqueezePlan, x: str) -> str:
        name, channels, hidden = squeeze.name, squeeze.channels, squeeze.hidden
        gate = self._node("GlobalAveragePool", f"{name}.mean", x)
        for part, c_in, c_out in (("reduce", channels, hidden), ("expand", hidden, channels)):
            weight = self._parameter(f"{name}.{part}.weight", (c_out, c_in, 1, 1))
            bias = self._parameter(f"{name}.{part}.bias", (c_out,))
            gate = self._node("Conv", f"{name}.{part}", gate, weight, bias, kernel_shape=[1, 1])
            if part == "reduce":
                gate = self._node("Relu", f"{name}.{part}.act", gate)
        gate = self._node("HardSigmoid", f"{name}.gate", gate, alpha=1 / 6, beta=0.5)
        return self._node("Mul", f"{name}.scale", x, gate)

    def _conv_norm(self, conv: ConvPlan, x: str) -> str:
        """Add a convolution with its BatchNorm folded in, its activation, and its input where it is residual."""
        weight, *bias = self._folded(conv)
        y = self._node(
            "Conv",
            f"{conv.name}.conv",
            x,
            weight,
            *bias,
            kernel_shape=[conv.kernel] * 2,
            strides=[conv.stride] * 2,
            pads=[conv.kernel // 2] * 4,
            group=conv.groups,
        )
        y = self._activation(conv.activation, conv.name, y)
        return self._node("Add", f"{conv.name}.add", y, x) if conv.is_residual else y

    def _folded(self, conv: ConvPlan) -> list[str]:
        """Add the weight of a convolution and, where it has a BatchNorm, the bias that comes of folding it in."""
        shape = (conv.channels_out, conv.channels_in // conv.groups, conv.kernel, conv.kernel)
        weight, bias = f"{conv.name}.weight", f"{conv.name}.bias"
        if isinstance(self._weights, SharedWeights):
            shifts = [self._elsewhere(bias, shape[:1])] if conv.has_norm else []
            return [self._elsewhere(weight, shape), *shifts]
        weight_OIKK = self._tensor(f"{conv.name}.conv.weight", shape)
        if not conv.has_norm:
            return [self._constant(weight, weight_OIKK)]
        gamma, beta, mean, var = (
            self._tensor(f"{conv.name}.norm.{part}", shape[:1])
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale_O = gamma / np.sqrt(var + self._eps)
        shifts = [self._constant(bias, beta - mean * scale_O)]
        return [self._constant(weight, weight_OIKK * scale_O[:, None, None, None]), *shifts]

    def _activation(self, kind: str | None, prefix: str, x: str) -> str:
        name = f"{prefix}.act"
        if kind is None:
            return x
        if kind == "relu6":
            bounds = [self._constant(f"{name}.{bound}", np.array(v)) for bound, v in (("min", 0.0), ("max", 6.0))]
            return self._node("Clip", name, x, *bounds)
        return self._node({"relu": "Relu", "hswish": "HardSwish"}[kind], name, x)

    def _pool(self, pool: PoolPlan, x: str) -> str:
        if pool.kind == "mean":
            return self._node("GlobalAveragePool", pool.name, x)
        return self._node("MaxPool", pool.name, x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)

    def _classifier(self, linear: LinearPlan, x: str) -> str:
        weight = self._parameter(f"{linear.name}.weight", (linear.features_out, linear.features_in))
        bias = self._parameter(f"{linear.name}.bias", (linear.features_out,))
        x = self._node("Flatten", f"{linear.name}.flatten", x)
        return self._node("Gemm", linear.name, x, weight, bias, output=OUTPUT, transB=1)

    def _node(self, operator: str, name: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output or name], name=name, **attributes))
        return output or name

    def _parameter(self, name: str, shape: tuple[int, ...]) -> str:
        """Add a tensor as it stands among the weights."""
        if isinstance(self._weights, SharedWeights):
            return self._elsewhere(name, shape)
        return self._constant(name, self._tensor(name, shape))

    def _elsewhere(self, name: str, shape: tuple[int, ...]) -> str:
        """Add a float32 constant whose numbers lie in the shared file."""
        assert isinstance(self._weights, SharedWeights)
        length, offset = 4 * math.prod(shape), OFFSET_BYTES * len(self.initializers)
        self.initializers.append(external_tensor(name, TensorProto.FLOAT, shape, self._weights.file, length, offset))
        return name

    def _constant(self, name: str, value: NDArray[np.float64]) -> str:
        """Add a float32 constant; everything before it was computed in float64."""
        with np.errstate(over="ignore"):
            tensor = value.astype(np.float32)
        if not np.isfinite(tensor).all():
            raise ExportError(f"{name} is not finite in float32; the training diverged: take an earlier checkpoint")
        self.initializers.append(numpy_helper.from_array(tensor, name))
        return name

    def _tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        assert not isinstance(self._weights, SharedWeights)
        if name not in self._weights:
            raise ExportError(f"weight {name} is missing; expected every tensor of the subnet's state")
        found = np.shape(self._weights[name])
        if found != shape:
            raise ExportError(f"weight {name} has shape {found}; the subnet's plan expects {shape}")
        return np.asarray(self._weights[name], np.float64)


def external_tensor(
    name: str, kind: int, shape: tuple[int, ...], file: str, size_bytes: int, offset: int
) -> TensorProto:
    """Return a constant of an ONNX type whose numbers are some bytes of a file beside the model."""
    tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", file), ("offset", str(offset)), ("length", str(size_bytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor
