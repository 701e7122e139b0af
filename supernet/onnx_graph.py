"""The ONNX graph of one subnet, written node by node from its plan; nothing is traced, so it takes milliseconds.

Relies on ``plan.py`` for the layers and on numpy weights by the names of the plain network; no torch. Every node is
named after the parameters it uses (``stages.2.1.expand.conv``) and its one output is called like the node, so a
profiler's line, a quantizer's node and a latency key all lead back to a piece of the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deps.ground.console import deps_version
from deps.ground.errors import ExportError
from deps.supernet.plan import (
    BottleneckPlan,
    ConvPlan,
    InvertedPlan,
    LinearPlan,
    NetworkPlan,
    Piece,
    PoolPlan,
    SqueezePlan,
)

Weights: TypeAlias = Mapping[str, NDArray[Any]]

INPUT, OUTPUT, BATCH = "input", "logits", "batch"

OPSET = 20
"""Read by ONNX Runtime 1.17, TensorRT 10, 11 and RTX; from 19 on, quantization scales may be fp16."""

OLDEST_OPSET = 14
"""The first with HardSwish; ask for 17 where TensorRT 8.6 must read the graph."""


def onnx_from_subnet(
    subnet: NetworkPlan,
    weights: Weights,
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
        weights: its tensors by name, as the state of the plain network holds them; others are ignored.
        eps: what BatchNorm adds to the variance, ``space.norm_eps``.
        metadata: written into the model's ``metadata_props``, in the order of its keys.
        opset: version of the ONNX operators; the IR version is the oldest that has them.

    Raises:
        ExportError: a tensor is missing, of another shape or not finite, or the opset lacks an operator.
    """
    if not OLDEST_OPSET <= opset <= onnx.defs.onnx_opset_version():
        newest = onnx.defs.onnx_opset_version()
        raise ExportError(f"opset is {opset}; expected {OLDEST_OPSET} to {newest}, e.g. {OPSET}")
    graph = _Graph(weights, eps)
    value = INPUT
    for piece in subnet.pieces():
        value = graph.add_piece(piece, value)
    assert value == OUTPUT

    shape_in: list[str | int | None] = [BATCH, subnet.in_channels, subnet.resolution, subnet.resolution]
    shape_out: list[str | int | None] = [BATCH, subnet.classifier.features_out]
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "subnet",
            inputs=[helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape_in)],
            outputs=[helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape_out)],
            initializer=graph.initializers,
        ),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="deps",
        producer_version=deps_version(),
    )
    if metadata:
        helper.set_model_props(model, dict(sorted(metadata.items())))
    return model


class _Graph:
    """The nodes and constants written so far; each method adds one part and returns the name of its output."""

    def __init__(self, weights: Weights, eps: float) -> None:
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
            weight = self._constant(f"{name}.{part}.weight", self._tensor(f"{name}.{part}.weight", (c_out, c_in, 1, 1)))
            bias = self._constant(f"{name}.{part}.bias", self._tensor(f"{name}.{part}.bias", (c_out,)))
            gate = self._node("Conv", f"{name}.{part}", gate, weight, bias, kernel_shape=[1, 1])
            if part == "reduce":
                gate = self._node("Relu", f"{name}.{part}.act", gate)
        gate = self._node("HardSigmoid", f"{name}.gate", gate, alpha=1 / 6, beta=0.5)
        return self._node("Mul", f"{name}.scale", x, gate)

    def _conv_norm(self, conv: ConvPlan, x: str) -> str:
        """Add a convolution with its BatchNorm folded in, its activation, and its input where it is residual."""
        inside = conv.channels_in // conv.groups
        weight_OIKK = self._tensor(f"{conv.name}.conv.weight", (conv.channels_out, inside, conv.kernel, conv.kernel))
        bias = []
        if conv.has_norm:
            gamma, beta, mean, var = (
                self._tensor(f"{conv.name}.norm.{part}", (conv.channels_out,))
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale_O = gamma / np.sqrt(var + self._eps)
            weight_OIKK = weight_OIKK * scale_O[:, None, None, None]
            bias = [self._constant(f"{conv.name}.bias", beta - mean * scale_O)]
        y = self._node(
            "Conv",
            f"{conv.name}.conv",
            x,
            self._constant(f"{conv.name}.weight", weight_OIKK),
            *bias,
            kernel_shape=[conv.kernel] * 2,
            strides=[conv.stride] * 2,
            pads=[conv.kernel // 2] * 4,
            group=conv.groups,
        )
        y = self._activation(conv.activation, conv.name, y)
        return self._node("Add", f"{conv.name}.add", y, x) if conv.is_residual else y

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
        weight_OI = self._tensor(f"{linear.name}.weight", (linear.features_out, linear.features_in))
        weight = self._constant(f"{linear.name}.weight", weight_OI)
        bias = self._constant(f"{linear.name}.bias", self._tensor(f"{linear.name}.bias", (linear.features_out,)))
        x = self._node("Flatten", f"{linear.name}.flatten", x)
        return self._node("Gemm", linear.name, x, weight, bias, output=OUTPUT, transB=1)

    def _node(self, operator: str, name: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output or name], name=name, **attributes))
        return output or name

    def _constant(self, name: str, value: NDArray[np.float64]) -> str:
        """Add a float32 constant; everything before it was computed in float64."""
        with np.errstate(over="ignore"):
            tensor = value.astype(np.float32)
        if not np.isfinite(tensor).all():
            raise ExportError(f"{name} is not finite in float32; the training diverged: take an earlier checkpoint")
        self.initializers.append(numpy_helper.from_array(tensor, name))
        return name

    def _tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        if name not in self._weights:
            raise ExportError(f"weight {name} is missing; expected every tensor of the subnet's state")
        found = np.shape(self._weights[name])
        if found != shape:
            raise ExportError(f"weight {name} has shape {found}; the subnet's plan expects {shape}")
        return np.asarray(self._weights[name], np.float64)
