"""Open a graph in ONNX Runtime on the processor, after ONNX's own checker found it valid.

Relies on onnxruntime as the judge of everything that is exported; what it cannot run is not shipped.
"""

from __future__ import annotations

from typing import Any

import onnx

from deps.ground.console import require
from deps.ground.errors import ExportError


def open_session(model: onnx.ModelProto, what: str, *, is_literal: bool = False, num_threads: int = 0) -> Any:
    """Return a session of onnxruntime.

    Args:
        model: the graph, with its weights inside.
        what: what it is called in an error, e.g. ``"fp16"``.
        is_literal: whether quantise and dequantise steps are taken as they stand, as TensorRT would; otherwise they
            become integer kernels of the processor, which round in their own way.
        num_threads: threads inside one inference; 0 leaves the choice to onnxruntime.

    Raises:
        ExportError: the graph is not valid ONNX, or onnxruntime cannot load it.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the {what} graph is not valid ONNX: {first_line(error)}; expected one that its checker accepts"
        ) from error
    ort = require("onnxruntime", "compile")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = num_threads
    # Spinning threads take the cores from everyone else on a shared machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if is_literal:
        # A lower optimisation level does not do it: some of these steps are replaced at the lowest.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class of its own for each kind of failure
        raise ExportError(
            f"onnxruntime cannot load the {what} graph: {first_line(error)}; expected operators it knows"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return str(error).strip().partition("\n")[0]
