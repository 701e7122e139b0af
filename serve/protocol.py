"""The Open Inference Protocol, version 2: bytes to requests and answers to bytes, JSON and binary tensors.

Relies on nothing of the web, so it can be tested, and used, without a server. Everything that is wrong with a request
is a ``RefusedError`` with status 400; what a request may say beside tensors is listed in ``docs/serving.md``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from deps.serve.engines.base import FloatArray
from deps.serve.manifest import Manifest
from deps.serve.refusals import RefusedError

MODEL_VERSION = "1"
HEADER_LENGTH = "Inference-Header-Content-Length"
FLOAT = np.dtype("<f4")
_FLOAT_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """How one output shall be given."""

    is_binary: bool = False
    """As raw bytes after the JSON."""

    classification: int = 0
    """As text, the top so many classes; 0 gives the numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """One inference request, understood."""

    images: FloatArray
    """Shape (N, C, H, W), N at least 1."""

    output: RequestedOutput
    """How the logits shall be given."""

    id: str | None = None
    """Given back with the answer."""

    timeout_s: float = math.inf
    """Longest wait for the engine."""


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """Body of the answer, with the length of its JSON when tensors follow it."""

    body: bytes
    json_length: int | None = None


@dataclass(frozen=True, slots=True)
class AnsweredBy:
    """What computed an answer; told in its parameters."""

    subnet: str
    precision: str
    engine: str

    def parameters(self) -> dict[str, str]:
        """Return them as the protocol's parameters."""
        return {"subnet": self.subnet, "precision": self.precision, "engine": self.engine}


@dataclass(slots=True)
class _Fields:
    """An object of the request, read key by key, with its place for messages."""

    value: dict[str, Any]
    where: str
    known: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.value, dict):
            _refuse(f"{self.where} is {_shown(self.value)}; expected a JSON object")
        for key in self.value:
            if key not in self.known:
                _refuse(f"{self.where} has the unknown key {key!r}; expected some of {', '.join(self.known)}")

    def text(self, key: str) -> str:
        value = self.value.get(key)
        if not isinstance(value, str):
            _refuse(f"{self.where}.{key} is {_shown(value)}; expected text")
        return value

    def parameters(self) -> dict[str, Any]:
        value = self.value.get("parameters", {})
        if not isinstance(value, dict):
            _refuse(f"{self.where}.parameters is {_shown(value)}; expected a JSON object")
        for key, item in value.items():
            if not isinstance(item, (str, int, float, bool)):
                _refuse(f"{self.where}.parameters.{key} is {_shown(item)}; expected text, a number, true or false")
            if key.startswith("shared_memory"):
                _refuse(f"{self.where}.parameters.{key}: shared memory is not served; send the tensor in the request")
        return value


def _refuse(message: str) -> NoReturn:
    raise RefusedError(message)


def _shown(value: object) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _whole_number(value: object, what: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        _refuse(f"{what} is {_shown(value)}; expected a whole number of at least {least}")
    return value


def _flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        _refuse(f"{what} is {_shown(value)}; expected true or false")
    return value


def parse_header_length(text: str | None, body_length: int) -> int | None:
    """Return the JSON's length that the header names, or None when the whole body is JSON.

    Raises:
        RefusedError: not a whole number, or longer than the body.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        _refuse(f"{HEADER_LENGTH} is {_shown(text)}; expected a whole number of bytes")
    if int(text) > body_length:
        _refuse(f"{HEADER_LENGTH} is {text}, but the body has {body_length} bytes; expected the length of its JSON")
    return int(text)


def parse_infer(body: bytes, header_length: str | None, manifest: Manifest) -> InferRequest:
    """Understand an inference request.

    Args:
        body: the whole body, decompressed.
        header_length: the header ``Inference-Header-Content-Length`` as it was sent; None when it was not.
        manifest: of the bundle that is asked.

    Raises:
        RefusedError: malformed in any way; 400, and the message names the key.
    """
    json_length = parse_header_length(header_length, len(body))
    if json_length == 0:
        # The protocol lets a model of one input be asked with nothing but that tensor.
        return InferRequest(_raw_batch(body, manifest), RequestedOutput(is_binary=True))
    request = _Fields(
        _parse_json(body if json_length is None else body[:json_length]),
        "request",
        ("id", "parameters", "inputs", "outputs"),
    )
    rest = b"" if json_length is None else body[json_length:]
    parameters = request.parameters()
    return InferRequest(
        images=_read_input(request.value.get("inputs"), rest, manifest),
        output=_read_output(request.value.get("outputs"), parameters, manifest),
        id=request.text("id") if "id" in request.value else None,
        timeout_s=_read_timeout(parameters),
    )


def _parse_json(text: bytes) -> Any:
    def no_such_number(name: str) -> NoReturn:
        _refuse(f"the request holds {name}; expected JSON, which has finite numbers only")

    try:
        return json.loads(text.decode("utf-8"), parse_constant=no_such_number)
    except RecursionError:
        _refuse("the request is nested too deeply; expected tensors of four dimensions at most")
    except ValueError as error:
        _refuse(f"the request is not JSON ({error}); expected the protocol's inference request")


def _read_timeout(parameters: Mapping[str, Any]) -> float:
    if "timeout" not in parameters:
        return math.inf
    microseconds = _whole_number(parameters["timeout"], "request.parameters.timeout", least=0)
    # Zero means none, as in the protocol's scheduling extension.
    return min(microseconds, 10**12) / 1e6 if microseconds else math.inf


def _read_output(outputs: Any, parameters: Mapping[str, Any], manifest: Manifest) -> RequestedOutput:
    default = _flag(parameters.get("binary_data_output", False), "request.parameters.binary_data_output")
    if outputs is None or outputs == []:
        return RequestedOutput(is_binary=default)
    if not isinstance(outputs, list) or len(outputs) != 1:
        _refuse(f"request.outputs is {_shown(outputs)}; expected a list of the one output {manifest.output.name!r}")
    output = _Fields(outputs[0], "request.outputs[0]", ("name", "parameters"))
    if output.text("name") != manifest.output.name:
        _refuse(f"request.outputs[0].name is {_shown(output.text('name'))}; expected {manifest.output.name!r}")
    asked = output.parameters()
    where = "request.outputs[0].parameters"
    classes = _whole_number(asked.get("classification", 0), f"{where}.classification", least=0)
    return RequestedOutput(
        is_binary=_flag(asked.get("binary_data", default), f"{where}.binary_data"),
        classification=min(classes, manifest.output.classes),
    )


def _read_input(inputs: Any, rest: bytes, manifest: Manifest) -> FloatArray:
    spec = manifest.input
    if not isinstance(inputs, list) or len(inputs) != 1:
        _refuse(f"request.inputs is {_shown(inputs)}; expected a list of the one input {spec.name!r}")
    where = "request.inputs[0]"
    tensor = _Fields(inputs[0], where, ("name", "shape", "datatype", "parameters", "data"))
    if tensor.text("name") != spec.name:
        _refuse(f"{where}.name is {_shown(tensor.text('name'))}; expected {spec.name!r}")
    if tensor.text("datatype") != spec.datatype:
        _refuse(f"{where}.datatype is {_shown(tensor.text('datatype'))}; expected {spec.datatype!r}")
    shape = _read_shape(tensor.value.get("shape"), where, manifest)
    parameters = tensor.parameters()
    if "binary_data_size" not in parameters:
        if rest:
            _refuse(f"{len(rest)} bytes follow the JSON, which claims none of them; expected binary_data_size")
        if "data" not in tensor.value:
            _refuse(f"{where}.data is missing; expected the tensor's values, or binary_data_size and the bytes")
        return _array_from_lists(tensor.value["data"], shape, f"{where}.data")
    if "data" in tensor.value:
        _refuse(f"{where} has both data and binary_data_size; expected one of them")
    size = _whole_number(parameters["binary_data_size"], f"{where}.parameters.binary_data_size", least=0)
    if size != len(rest):
        _refuse(f"{where}.parameters.binary_data_size is {size}; expected {len(rest)}, the bytes after the JSON")
    if size != math.prod(shape) * FLOAT.itemsize:
        _refuse(f"{where} holds {size} bytes; expected {math.prod(shape) * FLOAT.itemsize} for the shape {list(shape)}")
    return np.frombuffer(rest, FLOAT).reshape(shape)


def _read_shape(shape: Any, where: str, manifest: Manifest) -> tuple[int, ...]:
    image = manifest.input.shape
    expected = f"[N, {', '.join(map(str, image))}]"
    if (
        not isinstance(shape, list)
        or any(isinstance(size, bool) or not isinstance(size, int) for size in shape)
        or tuple(shape[1:]) != image
        or shape[0] < 1
    ):
        _refuse(f"{where}.shape is {_shown(shape)}; expected {expected} with N of at least 1")
    return tuple(shape)


def _array_from_lists(data: Any, shape: tuple[int, ...], where: str) -> FloatArray:
    """Return the tensor that a flat or a fully nested list holds; nothing but numbers is let through."""
    if not isinstance(data, list):
        _refuse(f"{where} is {_shown(data)}; expected a list of numbers")
    flat, depth = data, 0
    while (kinds := set(map(type, flat))) == {list}:
        if (
            depth == len(shape) - 1
            or len(flat) != math.prod(shape[: depth + 1])
            or set(map(len, flat)) != {shape[depth + 1]}
        ):
            _refuse(f"{where} is nested otherwise than the shape {list(shape)}; expected flat values or that shape")
        flat, depth = list(chain.from_iterable(flat)), depth + 1
    if depth not in (0, len(shape) - 1):
        _refuse(f"{where} is nested {depth + 1} deep; expected flat values or the shape {list(shape)}")
    if not kinds <= {int, float}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds - {int, float}))
        _refuse(f"{where} holds {names}; expected numbers only")
    if len(flat) != math.prod(shape):
        _refuse(f"{where} holds {len(flat)} values; expected {math.prod(shape)} for the shape {list(shape)}")
    try:
        values = np.array(flat, dtype=np.float64)
    except OverflowError:
        values = np.array([math.inf])
    if not (np.abs(values) <= _FLOAT_MAX).all():
        _refuse(f"{where} holds a number beyond FP32; expected values of magnitude {_FLOAT_MAX:.3g} at most")
    return values.astype(np.float32).reshape(shape)


def _raw_batch(body: bytes, manifest: Manifest) -> FloatArray:
    image_bytes = math.prod(manifest.input.shape) * FLOAT.itemsize
    if not body or len(body) % image_bytes:
        _refuse(f"the body has {len(body)} bytes; expected a multiple of {image_bytes}, the size of one image")
    return np.frombuffer(body, FLOAT).reshape(-1, *manifest.input.shape)


def encode_infer(request: InferRequest, logits_NV: FloatArray, manifest: Manifest, by: AnsweredBy) -> InferAnswer:
    """Write the answer to a request.

    Raises:
        RefusedError: the logits are not finite, which JSON cannot say; 400, since binary output can.
    """
    tensor: dict[str, Any] = {"name": manifest.output.name}
    raw = b""
    if request.output.classification:
        top = _classification(logits_NV, request.output.classification, manifest.labels)
        tensor |= {"datatype": "BYTES", "shape": [len(logits_NV), request.output.classification]}
        if request.output.is_binary:
            encoded = [text.encode() for text in top]
            raw = b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
        else:
            tensor["data"] = top
    else:
        tensor |= {"datatype": manifest.output.datatype, "shape": list(logits_NV.shape)}
        if request.output.is_binary:
            raw = logits_NV.astype(FLOAT, copy=False).tobytes()
        elif not np.isfinite(logits_NV).all():
            _refuse("the logits are not finite, which JSON cannot say; expected finite images; or ask for binary_data")
        else:
            tensor["data"] = logits_NV.ravel().tolist()
    if request.output.is_binary:
        tensor["parameters"] = {"binary_data_size": len(raw)}
    answer = {"model_name": manifest.name, "model_version": MODEL_VERSION}
    if request.id is not None:
        answer["id"] = request.id
    text = json.dumps(answer | {"parameters": by.parameters(), "outputs": [tensor]}, ensure_ascii=False).encode()
    return InferAnswer(text + raw, len(text) if request.output.is_binary else None)


def _classification(logits_NV: FloatArray, count: int, labels: tuple[str, ...]) -> list[str]:
    """Return ``value:index:label`` of the top classes of each image, best first."""
    order_NK = np.argsort(-logits_NV, axis=1, kind="stable")[:, :count]
    return [
        f"{row[index]:f}:{index}:{labels[index]}"
        for row, best in zip(logits_NV, order_NK, strict=True)
        for index in best
    ]


def server_metadata(version: str) -> dict[str, Any]:
    """Return what ``GET /v2`` answers."""
    return {"name": "deps", "version": version, "extensions": ["binary_tensor_data", "classification"]}


def model_metadata(manifest: Manifest, platform: str) -> dict[str, Any]:
    """Return what ``GET /v2/models/NAME`` answers."""
    given, taken = manifest.output, manifest.input
    return {
        "name": manifest.name,
        "versions": [MODEL_VERSION],
        "platform": platform,
        "inputs": [{"name": taken.name, "datatype": taken.datatype, "shape": [-1, *taken.shape]}],
        "outputs": [{"name": given.name, "datatype": given.datatype, "shape": [-1, given.classes]}],
    }
