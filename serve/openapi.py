"""The OpenAPI document of a running server: its very models, with the names and shapes that they take.

Relies on what is loaded at the moment it is asked for. ``tests/serve/test_openapi.py`` lets schemathesis try every line
of it against a real server.
"""

from __future__ import annotations

import math
from typing import Any

from deps.ground.console import deps_version
from deps.serve.models import Loaded, Served
from deps.serve.protocol import HEADER_LENGTH, MODEL_VERSION, TIMEOUT_HEADER
from deps.serve.repository import Repository
from deps.serve.signature import Signature, TensorSpec

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SCALAR: Schema = {"type": ["string", "number", "boolean"]}


def _object(properties: dict[str, Schema], *, optional: tuple[str, ...] = (), is_open: bool = False) -> Schema:
    required = [key for key in properties if key not in optional]
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": is_open}
    return {**schema, "required": required} if required else schema


def _list(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_TALLY = _object({"count": _COUNT, "ns": _COUNT})
_TENSOR = _object({"name": _TEXT, "datatype": _TEXT, "shape": _list({"type": "integer"})})
_STATISTICS = _object(
    {
        "name": _TEXT,
        "version": _TEXT,
        "last_inference": _COUNT,
        "inference_count": _COUNT,
        "execution_count": _COUNT,
        "inference_stats": {"type": "object", "additionalProperties": _TALLY},
        "response_stats": {"type": "object"},
        "batch_stats": _list(
            _object({"batch_size": _COUNT, "compute_input": _TALLY, "compute_infer": _TALLY, "compute_output": _TALLY})
        ),
        "memory_usage": _list({"type": "object"}),
    }
)
_SUBNET = _object(
    {
        "name": _TEXT,
        "precision": _TEXT,
        "engine": _TEXT,
        "flops": {**_COUNT, "description": "multiply-adds for one image"},
        "params": _COUNT,
        "accuracy": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "latency_ms": {"type": ["number", "null"], "minimum": 0, "description": "of one image, as it is now"},
        "is_offered": {"type": "boolean"},
        "images": _COUNT,
    }
)
_SCHEMAS: dict[str, Schema] = {
    "Error": _object({"error": {"type": "string", "description": "what happened; what was expected"}}),
    "ServerMetadata": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
    "ModelMetadata": _object(
        {
            "name": _TEXT,
            "versions": _list(_TEXT),
            "platform": _TEXT,
            "inputs": _list(_TENSOR),
            "outputs": _list(_TENSOR),
        }
    ),
    "ModelConfig": _object(
        {"name": _TEXT, "platform": _TEXT, "max_batch_size": _COUNT, "input": _list({}), "output": _list({})},
        is_open=True,
    ),
    "Statistics": _object({"model_stats": _list(_STATISTICS)}),
    "Subnets": _object(
        {
            "name": _TEXT,
            "target": _TEXT,
            "subnets": _list(_SUBNET, minItems=1),
            "queue_images": _COUNT,
            "requests": _COUNT,
            "images": _COUNT,
            "seconds": {"type": "number", "minimum": 0, "description": "of all requests that were answered"},
            "refused": _COUNT,
        }
    ),
    "Index": _list(_object({"name": _TEXT, "version": _TEXT, "state": _TEXT, "reason": _TEXT})),
    "InferResponse": _object(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "id": _TEXT,
            "parameters": {"type": "object", "additionalProperties": _SCALAR},
            "outputs": _list(
                _object(
                    {
                        "name": _TEXT,
                        "datatype": {"enum": ["FP32", "BYTES"]},
                        "shape": _list(_COUNT, minItems=2, maxItems=2),
                        "data": _list({"type": ["number", "string"]}),
                        "parameters": {"type": "object"},
                    },
                    optional=("data", "parameters"),
                ),
                minItems=1,
                maxItems=1,
            ),
        },
        optional=("id",),
    ),
    "Classes": _object(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "parameters": {"type": "object", "additionalProperties": _TEXT},
            "classes": _list(
                _object({"index": _COUNT, "label": _TEXT, "score": {"type": "number", "minimum": 0, "maximum": 1}})
            ),
        }
    ),
}

_ERRORS = {
    400: "malformed",
    401: "the token is missing or wrong",
    403: "from a page of another site, or not allowed here",
    404: "no such model or version",
    413: "the body or picture is too large",
    415: "a content type or encoding that is not read",
    431: "the headers are too large",
    500: "the engine failed",
    503: "not loaded, stopping, too much waits, or not in time; Retry-After says when to come back",
}
_OFTEN = (401, 403, 404, 431, 503)


def _operation(
    told: str, answer: Schema | None, *errors: int, parameters: list[Schema] | None = None, **rest: Any
) -> Schema:
    ok: Schema = {"description": "done"} if answer is None else {"description": told, "content": answer}
    responses = {"200": ok}
    for status in sorted({*errors, 401, 403, 431}):
        responses[str(status)] = {"description": _ERRORS[status], "content": _json(_ref("Error"))}
    return {"summary": told, "parameters": parameters or [], "responses": responses, **rest}


def _bare(told: str, *statuses: int) -> Schema:
    """Return an operation that answers with a status alone."""
    responses: Schema = {str(status): {"description": "no body"} for status in (200, *statuses)}
    return {"summary": told, "responses": responses, "security": []}


def openapi(repository: Repository, *, needs_token: bool) -> dict[str, Any]:
    """Return the document.

    Args:
        repository: whose models are described, as they are now.
        needs_token: whether requests must show a token.
    """
    paths: dict[str, Any] = {
        "/v2": {"get": _operation("Name, version and extensions of the server.", _json(_ref("ServerMetadata")))},
        "/v2/health/live": {"get": _bare("Whether the server is there.")},
        "/v2/health/ready": {"get": _bare("Whether requests should be sent here.", 503)},
        "/v2/models/stats": {"get": _operation("Statistics of all models.", _json(_ref("Statistics")))},
        "/v2/repository/index": {"post": _index()},
        "/metrics": {"get": _operation("Prometheus metrics.", {"text/plain": {"schema": _TEXT}})},
        "/openapi.json": {"get": _operation("This document.", _json({"type": "object"}))},
    }
    for served in repository.served.values():
        paths |= _paths_of(served)
    for name in repository.models:
        paths |= _control_of(name)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "deps-serve",
            "version": deps_version(),
            "description": "Open Inference Protocol, version 2, with extensions. Every path also ends in a slash.",
        },
        "paths": paths,
        "components": {"schemas": _SCHEMAS},
    }
    if needs_token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _index() -> Schema:
    asked = _object({"ready": {"type": "boolean"}, "repository_name": _TEXT}, optional=("ready", "repository_name"))
    return _operation(
        "All names, with their state.",
        _json(_ref("Index")),
        *(400, 413, 415),
        requestBody={"required": False, "content": _json(asked)},
    )


def _control_of(name: str) -> dict[str, Any]:
    def control(told: str, parameters: dict[str, Schema]) -> dict[str, Any]:
        free = _object(parameters, optional=tuple(parameters))
        body = {"required": False, "content": _json(_object({"parameters": free}, optional=("parameters",)))}
        return {"post": _operation(told, None, 400, 404, 413, 415, 503, requestBody=body)}

    root = f"/v2/repository/models/{name}"
    return {
        f"{root}/load": control("Load the bundle in the model's folder, in place of what is loaded.", {}),
        f"{root}/unload": control(
            "Answer what is under way, and give the memory back.", {"unload_dependents": {"type": "boolean"}}
        ),
    }


def _paths_of(served: Served) -> dict[str, Any]:
    loaded: Loaded | None = served.model.loaded
    if loaded is None:
        return {f"/v2/models/{served.name}/ready": {"get": _bare("Whether the model answers.", 404, 503)}}
    signature = loaded.signatures[served.takes_raw]
    tails = {
        "": {"get": _operation("Inputs and outputs.", _json(_ref("ModelMetadata")), 404, 503)},
        "/ready": {"get": _bare("Whether the model answers.", 404, 503)},
        "/config": {"get": _operation("Configuration, as Triton's.", _json(_ref("ModelConfig")), 404, 503)},
        "/stats": {"get": _operation("Statistics, as Triton's.", _json(_ref("Statistics")), 404)},
        "/subnets": {"get": _operation("Who may answer, and the load so far.", _json(_ref("Subnets")), 404, 503)},
        "/infer": {"post": _infer(signature)},
        "/classify": {"post": _classify()},
    }
    root = f"/v2/models/{served.name}"
    return {
        f"{root}{version}{tail}": told for version in ("", f"/versions/{MODEL_VERSION}") for tail, told in tails.items()
    }


def _header(name: str, told: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "required": False, "description": told, "schema": schema}


_TIMEOUT = _header(
    TIMEOUT_HEADER,
    "Milliseconds from its arrival within which the answer is of use.",
    {"type": "string", "pattern": r"^[1-9][0-9]{0,8}(\.[0-9]{1,3})?$"},
)


def _infer(signature: Signature) -> Schema:
    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    length = _header(
        HEADER_LENGTH,
        "Length of the JSON before binary tensors; 0 when the body is nothing but the input tensor.",
        {"type": "string", "pattern": "^[0-9]{1,9}$"},
    )
    return _operation(
        "Compute the logits of some images.",
        _json(_ref("InferResponse")) | binary,
        *(400, 404, 413, 415, 500, 503),
        parameters=[_TIMEOUT, length],
        requestBody={"required": True, "content": _json(_request(signature)) | binary},
    )


def _request(signature: Signature) -> Schema:
    taken, given = signature.input, signature.output
    output = _object(
        {
            "name": {"const": given.name},
            "parameters": _object(
                {"binary_data": {"type": "boolean"}, "classification": _COUNT},
                optional=("binary_data", "classification"),
                is_open=True,
            ),
        },
        optional=("parameters",),
    )
    parameters = _object(
        {
            "timeout": {**_COUNT, "description": "microseconds from arrival; 0 is none"},
            "binary_data_output": {"type": "boolean"},
        },
        optional=("timeout", "binary_data_output"),
    )
    schema = _object(
        {
            "id": _TEXT,
            "parameters": {**parameters, "additionalProperties": _SCALAR},
            "inputs": _list(_input(taken), minItems=1, maxItems=1),
            "outputs": _list(output, maxItems=1),
        },
        optional=("id", "parameters", "outputs"),
    )
    blank = [0] * math.prod(taken.shape)
    tensor = {"name": taken.name, "shape": [1, *taken.shape], "datatype": taken.datatype, "data": blank}
    return {**schema, "examples": [{"inputs": [tensor]}]} if len(blank) <= 4096 else schema


def _input(spec: TensorSpec) -> Schema:
    """Return the schema of the input; that ``data`` fits ``shape`` is beyond JSON Schema, and checked all the same."""
    number: Schema = (
        {"type": "integer", "minimum": 0, "maximum": 255} if spec.datatype == "UINT8" else {"type": "number"}
    )
    nested: Schema = number
    for size in reversed(spec.shape):
        nested = _list(nested, minItems=size, maxItems=size)
    sizes = [{"type": "integer", "minimum": 1}, *({"const": size} for size in spec.shape)]
    return _object(
        {
            "name": {"const": spec.name},
            "shape": {"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)},
            "datatype": {"const": spec.datatype},
            "data": {"anyOf": [_list(nested, minItems=1), _list(number, minItems=math.prod(spec.shape))]},
            "parameters": {"type": "object", "additionalProperties": _SCALAR},
        },
        optional=("data", "parameters"),
    )


def _classify() -> Schema:
    top = {
        "name": "top",
        "in": "query",
        "required": False,
        "description": "how many classes to name",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999999},
    }
    picture = {"schema": {"type": "string", "format": "binary"}}
    return _operation(
        "Name the top classes of a picture.",
        _json(_ref("Classes")),
        *(400, 404, 413, 415, 500, 503),
        parameters=[_TIMEOUT, top],
        requestBody={"required": True, "content": {"image/png": picture, "image/jpeg": picture}},
    )
