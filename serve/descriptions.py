"""What a server says of itself and of its models: metadata, and the configuration that NVIDIA's clients read.

Relies on ``signature.py``; all of it is JSON-ready, and gRPC sends the same content in its own messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deps.serve.protocol import MODEL_VERSION
from deps.serve.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from deps.serve.service import Service
    from deps.serve.statistics import ModelStatistics

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


def family_description(name: str, service: Service, statistics: ModelStatistics) -> dict[str, Any]:
    """Return what ``GET /v2/models/NAME/subnets`` answers: who may answer, what each costs, and the load so far.

    It is our addition to the protocol, and what the page at ``/`` is drawn from.
    """
    told = service.stats()
    subnets = []
    for member, counted in zip(service.subnets, told["subnets"], strict=True):
        entry = member.choice.subnet
        subnets.append(
            {
                "name": member.name,
                "precision": member.by.precision,
                "engine": member.by.engine,
                "flops": entry.flops,
                "params": entry.params,
                "accuracy": counted["accuracy"],
                "latency_ms": counted["estimate_ms"].get(1),
                "is_offered": counted["is_offered"],
                "images": sum(images * ran for images, (ran, _) in counted["batches"].items()),
            }
        )
    # Where accuracy was not measured, multiply-adds stand in for it, as in the scheduler.
    subnets.sort(key=lambda subnet: (-(subnet["accuracy"] or 0.0), -subnet["flops"]))
    return {
        "name": name,
        "target": service.manifest.target,
        "subnets": subnets,
        "queue_images": told["queue_images"],
        "requests": statistics.success.count,
        "images": statistics.images,
        "seconds": statistics.success.ns / 1e9,
        "refused": sum(statistics.refusals.values()),
    }


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
