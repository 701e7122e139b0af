"""Turn a float32 graph into the precisions of a bundle: fp16, int8 for TensorRT, int8 for processors.

Relies on the precision living in the graph itself, so that no builder needs to be told of it. Nothing here judges the
result: ``verify.py`` runs every graph and compares.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

from deps.extract.calibration import observe
from deps.extract.quantize import PROCESSOR, TENSORRT, Scheme, quantize
from deps.extract.session import first_line
from deps.ground.console import require
from deps.ground.errors import ExportError
from deps.serve.manifest import Backend, Precision

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "trt-int8", "cpu-int8")
"""In the order in which they are made and shown."""

BACKENDS: dict[Precision, tuple[Backend, ...]] = {
    "fp32": ("onnxruntime", "tensorrt"),
    "fp16": ("tensorrt",),
    "trt-int8": ("tensorrt",),
    "cpu-int8": ("onnxruntime",),
}
"""What each is made for; on the other backend it runs slowly, if at all."""

SCHEMES: dict[Precision, Scheme] = {"trt-int8": TENSORRT, "cpu-int8": PROCESSOR}
"""How each int8 precision quantises."""


_ONE_AT_A_TIME = threading.Lock()


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in fp16, inputs and outputs excepted; the original stays as it is."""
    float16 = require("onnxconverter_common.float16", "compile")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    # What is caught is caught for all threads.
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        # It tells of every weight below 1e-7, which nobody can act on; what is lost shows when the graph is run.
        warnings.simplefilter("ignore")
        try:
            return cast(onnx.ModelProto, float16.convert_float_to_float16(copy, keep_io_types=True))
        except (ValueError, TypeError, RuntimeError) as error:
            raise ExportError(
                f"the graph cannot be converted to fp16: {first_line(error)}; expected one with known operators; "
                "the other precisions are not concerned"
            ) from error


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an fp16 graph in float32 arithmetic, with the very numbers that the file holds; it stays as it is.

    A processor has no kernels for quantising fp16 and needs three times as long. At the edge of a step the two round
    otherwise, so answers of one are not those of the other.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for tensor in graph.initializer:
        _widen(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            _widen(attribute.t)
            if node.op_type == "Cast" and attribute.i == onnx.TensorProto.FLOAT16:
                attribute.i = onnx.TensorProto.FLOAT
    return copy


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == onnx.TensorProto.FLOAT16:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        )


def as_shipped(graph: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """Return the graph of a file, made of the float32 graph or of its quantised form; what is given stays as it is.

    What a graph for TensorRT does not quantise runs in fp16: TensorRT types a graph strongly and would run it in fp32
    otherwise.
    """
    if precision in ("fp16", "trt-int8"):
        return half(graph)
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


def convert(model: onnx.ModelProto, precision: Precision, calibration: Sequence[NDArray[Any]]) -> onnx.ModelProto:
    """Return the graph of a file in which nothing had to be repaired; the float32 original stays as it is.

    Args:
        model: float32 graph with BatchNorm folded in.
        precision: what to make.
        calibration: training images in batches (N, C, H, W), from which int8 takes the ranges of activations.

    Raises:
        ExportError: a library could not convert the graph.
    """
    if precision in SCHEMES:
        model = quantize(model, observe(model, calibration).ranges("minmax"), SCHEMES[precision])
    return as_shipped(model, precision)
