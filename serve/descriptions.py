"""What a server says of itself and of its models: metadata, and the configuration that NVIDIA's clients read.

Relies on ``signature.py``; all of it is JSON-ready, and gRPC sends the same content in its own messages.
"""

from __future__ import annotations

from typing import Any

from deps.serve.protocol import MODEL_VERSION
from deps.serve.signature import Signature, TensorSpec

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "statistics",
)

_CONFIG_TYPES = {"FP32": "TYPE_FP32", "UINT8": "TYPE_UINT8"}
_PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}


def server_metadata(version: str) -> dict[str, Any]:
    """Return what ``GET /v2`` answers."""
    return {"name": "deps", "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(signature: Signature, backend: str) -> dict[str, Any]:
    """Return what ``GET /v2/models/NAME`` answers."""
    return {
        "name": signature.name,
        "versions": [MODEL_VERSION],
        "platform": _PLATFORMS[backend],
        "inputs": [_tensor(signature.input)],
        "outputs": [_tensor(signature.output)],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.batched_shape}


def model_config(
    signature: Signature, backend: str, *, max_batch: int, facts: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return the model's configuration, in the part of Triton's schema that describes a model such as ours.

    Args:
        signature: of the model.
        backend: what runs it, ``"onnxruntime"`` or ``"tensorrt"``.
        max_batch: most images that the engine takes at once.
        facts: what else a person should know, as the schema's free parameters.
    """
    taken, given = signature.input, signature.output
    kind = "KIND_CPU" if backend == "onnxruntime" else "KIND_GPU"
    return {
        "name": signature.name,
        "platform": _PLATFORMS[backend],
        "backend": backend,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max_batch,
        "input": [
            {
                "name": taken.name,
                "data_type": _CONFIG_TYPES[taken.datatype],
                "format": "FORMAT_NCHW",
                "dims": list(taken.shape),
            }
        ],
        "output": [
            {"name": given.name, "data_type": _CONFIG_TYPES[given.datatype], "dims": list(given.shape)},
        ],
        "instance_group": [{"name": signature.name, "kind": kind, "count": 1}],
        "dynamic_batching": {"max_queue_delay_microseconds": 0},
        "parameters": {key: {"string_value": value} for key, value in (facts or {}).items()},
    }
