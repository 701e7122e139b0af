"""Turn a float32 graph into the precisions of a bundle: fp16, int8 for TensorRT, int8 for processors.

Relies on the precision living in the graph itself, so that no builder needs to be told of it. Nothing here judges the
result: ``verify.py`` runs every graph and compares.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from deps.ground.console import require
from deps.ground.errors import ExportError, FileError
from deps.serve.manifest import Backend, Precision
from deps.supernet.onnx_graph import INPUT

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "trt-int8", "cpu-int8")
"""In the order in which they are made and shown."""

BACKENDS: dict[Precision, tuple[Backend, ...]] = {
    "fp32": ("onnxruntime", "tensorrt"),
    "fp16": ("tensorrt",),
    "trt-int8": ("tensorrt",),
    "cpu-int8": ("onnxruntime",),
}
"""What each is made for; on the other backend it runs slowly, if at all."""

QUANTIZED_OPERATORS = ["Conv", "Gemm"]


def convert(model: onnx.ModelProto, precision: Precision, calibration: Sequence[NDArray[Any]]) -> onnx.ModelProto:
    """Return the graph in another precision; the float32 original stays as it is.

    Args:
        model: float32 graph with BatchNorm folded in.
        precision: what to make.
        calibration: training images in batches (N, C, H, W), from which int8 takes the ranges of activations.

    Raises:
        ExportError: a library could not convert the graph.
        FileError: the temporary folder cannot be written.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if precision == "fp32":
        return copy
    if precision == "fp16":
        return _half(copy)
    if precision == "cpu-int8":
        return _cpu_int8(copy, calibration)
    # What is not quantised runs in fp16: TensorRT types a graph strongly and would run it in fp32 otherwise.
    return _half(_trt_int8(copy, calibration))


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert to fp16, inputs and outputs excepted."""
    float16 = require("onnxconverter_common.float16", "compile")
    with warnings.catch_warnings():
        # It tells of every weight below 1e-7, which nobody can act on; what is lost shows when the graph is run.
        warnings.simplefilter("ignore")
        return cast(onnx.ModelProto, float16.convert_float_to_float16(model, keep_io_types=True))


def _trt_int8(model: onnx.ModelProto, calibration: Sequence[NDArray[Any]]) -> onnx.ModelProto:
    """Quantise for TensorRT: symmetric S8 on both sides; an int32 bias would make its parser fail."""
    options = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    return _quantize(model, calibration, activations="QInt8", reduce_range=False, options=options)


def _cpu_int8(model: onnx.ModelProto, calibration: Sequence[NDArray[Any]]) -> onnx.ModelProto:
    """Quantise for processors: U8 activations, S8 weights of seven bits.

    Without VNNI an x86 adds pairs of U8 x S8 products in 16 bits, which eight-bit weights overflow in silence (measured
    on the digits: largest error of a logit 1.24 instead of 0.30). Seven bits give the same answer everywhere.
    """
    return _quantize(model, calibration, activations="QUInt8", reduce_range=True, options={})


def _quantize(
    model: onnx.ModelProto,
    calibration: Sequence[NDArray[Any]],
    *,
    activations: str,
    reduce_range: bool,
    options: dict[str, Any],
) -> onnx.ModelProto:
    """Put quantise and dequantise pairs around convolutions and linear layers, one scale per output channel."""
    quantization = require("onnxruntime.quantization", "compile")
    try:
        with tempfile.TemporaryDirectory(prefix="deps-extract-") as folder, _silent_quantizer():
            path = Path(folder) / "model.onnx"
            quantization.quantize_static(
                model,
                path,
                _reader(quantization.CalibrationDataReader, calibration),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=QUANTIZED_OPERATORS,
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=quantization.QuantType[activations],
                weight_type=quantization.QuantType.QInt8,
                calibration_providers=["CPUExecutionProvider"],
                extra_options=options,
            )
            return onnx.load(path)
    except OSError as error:
        raise FileError(
            f"cannot write a temporary file: {(error.strerror or str(error)).lower()}; "
            "free some space, or set TMPDIR to another folder"
        ) from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise ExportError(
            f"onnxruntime cannot quantise the graph: {str(error).strip().partition(chr(10))[0]}; "
            "expected one it can run; the other precisions are not concerned"
        ) from error


def _reader(base: Any, calibration: Sequence[NDArray[Any]]) -> Any:
    """Return onnxruntime's kind of iterator over batches."""

    class Reader(base):  # type: ignore[misc]  # the base comes from a module loaded at run time
        """Hands out one batch after the other, then None."""

        def __init__(self) -> None:
            self._batches = iter(calibration)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            """Return the next batch."""
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: np.ascontiguousarray(batch)}

    return Reader()


@contextlib.contextmanager
def _silent_quantizer() -> Iterator[None]:
    """Keep the quantizer from logging advice that does not apply to graphs with BatchNorm folded in already.

    It logs through the root logger, which would be given a handler on stderr by that alone.
    """
    root, silent = logging.getLogger(), logging.NullHandler()
    before = root.manager.disable
    root.addHandler(silent)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        root.removeHandler(silent)
