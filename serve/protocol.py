"""Inference requests of the Open Inference Protocol, version 2: from JSON and binary tensors to images.

Relies on ``tensors.py`` for the tensors, and on nothing of the web, so it can be tested, and used, without a server.
Everything that is wrong with a request is a ``RefusedError`` with status 400; what a request may say beside its tensors
is listed in ``docs/serving.md``.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from deps.serve.signature import Signature
from deps.serve.tensors import (
    AnyArray,
    array_from_body,
    array_from_bytes,
    array_from_lists,
    check_shape,
    refuse,
    shown,
)

MODEL_VERSION = "1"
HEADER_LENGTH = "Inference-Header-Content-Length"
TIMEOUT_HEADER = "Deps-Timeout-Ms"

# The JSON before a tensor is short and, from one client, the same again and again: what it said is remembered.
_SHORT_JSON_BYTES = 1024
_REMEMBERED = 64

# What the protocol's extensions say in a request's parameters, beside what concerns tensors.
_MAX_TIMEOUT_S = 1e6

# How messages call what they speak of.
_A_REQUEST = "the protocol's inference request"
_INPUT = "request.inputs[0]"


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

    images: AnyArray
    """Shape (N, C, H, W), N at least 1; float32, or uint8 where the signature says so."""

    output: RequestedOutput
    """How the logits shall be given."""

    id: str | None = None
    """Given back with the answer."""

    timeout_s: float = math.inf
    """How long after its arrival the answer is of use."""

    subnet: str | None = None
    """The one subnet that shall answer; None leaves the choice."""


@dataclass(slots=True)
class _Fields:
    """An object of the request, read key by key, with its place for messages."""

    value: dict[str, Any]
    where: str
    known: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.value, dict):
            refuse(f"{self.where} is {shown(self.value)}; expected a JSON object")
        for key in self.value:
            if key not in self.known:
                known = ", ".join(self.known) or "none"
                refuse(f"{self.where} has the unknown key {key!r}; expected some of {known}")

    def text(self, key: str) -> str:
        value = self.value.get(key)
        if not isinstance(value, str):
            refuse(f"{self.where}.{key} is {shown(value)}; expected text")
        return value

    def parameters(self) -> dict[str, Any]:
        value = self.value.get("parameters", {})
        if not isinstance(value, dict):
            refuse(f"{self.where}.parameters is {shown(value)}; expected a JSON object")
        for key, item in value.items():
            if not isinstance(item, (str, int, float, bool)):
                refuse(f"{self.where}.parameters.{key} is {shown(item)}; expected text, a number, true or false")
            if key.startswith("shared_memory"):
                refuse(f"{self.where}.parameters.{key}: shared memory is not served; send the tensor in the request")
        return value


def _whole_number(value: object, what: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        refuse(f"{what} is {shown(value)}; expected a whole number of at least {least}")
    return value


def _flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        refuse(f"{what} is {shown(value)}; expected true or false")
    return value


def parse_header_length(text: str | None, body_length: int) -> int | None:
    """Return the JSON's length that the header names, or None when the whole body is JSON.

    Raises:
        RefusedError: not a whole number, or longer than the body.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        refuse(f"{HEADER_LENGTH} is {shown(text)}; expected a whole number of bytes")
    if int(text) > body_length:
        refuse(f"{HEADER_LENGTH} is {text}, but the body has {body_length} bytes; expected the length of its JSON")
    return int(text)


def parse_timeout_header(text: str | None) -> float:
    """Return the seconds that the header ``Deps-Timeout-Ms`` grants, without end when it was not sent.

    Raises:
        RefusedError: not a positive number of milliseconds.
    """
    if text is None:
        return math.inf
    whole, _, fraction = text.partition(".")
    if not text.isascii() or not whole.isdigit() or (fraction and not fraction.isdigit()) or len(text) > 18:
        refuse(f"{TIMEOUT_HEADER} is {shown(text)}; expected a positive number of milliseconds, such as 50")
    if not (milliseconds := float(text)) > 0:
        refuse(f"{TIMEOUT_HEADER} is {shown(text)}; expected a positive number of milliseconds, such as 50")
    return min(milliseconds / 1e3, _MAX_TIMEOUT_S)


def parse_json(text: bytes | memoryview, what: str) -> Any:
    """Return the value that a body holds.

    Args:
        text: the body, or its JSON part.
        what: what was expected, for the message.

    Raises:
        RefusedError: no JSON, NaN or infinite numbers, or nested too deeply.
    """

    def no_such_number(name: str) -> NoReturn:
        refuse(f"the request holds {name}; expected JSON, which has finite numbers only")

    try:
        return json.loads(str(text, "utf-8"), parse_constant=no_such_number)
    except RecursionError:
        refuse("the request is nested too deeply; expected tensors of four dimensions at most")
    except ValueError as error:
        refuse(f"the request is not JSON ({error}); expected {what}")


def parse_infer(body: bytes | memoryview, header_length: str | None, signature: Signature) -> InferRequest:
    """Understand an inference request.

    Args:
        body: the whole body, decompressed.
        header_length: the header ``Inference-Header-Content-Length`` as it was sent; None when it was not.
        signature: of the model that is asked.

    Raises:
        RefusedError: malformed in any way; 400, and the message names the key.
    """
    json_length = parse_header_length(header_length, len(body))
    if json_length == 0:
        # The protocol lets a model of one input be asked with nothing but that tensor.
        return InferRequest(array_from_body(body, signature.input), RequestedOutput(is_binary=True))
    if json_length is None:
        return read_infer(parse_json(body, _A_REQUEST), b"", signature)
    rest = memoryview(body)[json_length:]
    if json_length <= _SHORT_JSON_BYTES:
        return _with_tensor(_understood(bytes(body[:json_length]), len(rest), signature), rest, signature)
    return read_infer(parse_json(body[:json_length], _A_REQUEST), rest, signature)


def read_infer(value: Any, rest: bytes | memoryview, signature: Signature) -> InferRequest:
    """Understand an inference request that was parsed already.

    Args:
        value: what the JSON holds; gRPC brings its messages into the same form.
        rest: the bytes that binary tensors claim.
        signature: of the model that is asked.

    Raises:
        RefusedError: malformed in any way; 400, and the message names the key.
    """
    return _with_tensor(_read_request(value, len(rest), signature), rest, signature)


class _Understood(NamedTuple):
    """What the JSON of a request says."""

    images: AnyArray | tuple[int, ...]
    """The tensor, or the shape of one that follows in bytes."""

    output: RequestedOutput
    id: str | None
    timeout_s: float
    subnet: str | None


@functools.lru_cache(maxsize=_REMEMBERED)
def _understood(text: bytes, rest_bytes: int, signature: Signature) -> _Understood:
    return _read_request(parse_json(text, _A_REQUEST), rest_bytes, signature)


def _with_tensor(understood: _Understood, rest: bytes | memoryview, signature: Signature) -> InferRequest:
    """Return the request with its images, read from the bytes that follow the JSON when they are not in it."""
    images, output, name, timeout_s, subnet = understood
    if isinstance(images, tuple):
        images = array_from_bytes(rest, images, _INPUT, signature.input)
    return InferRequest(images, output, name, timeout_s, subnet)


def _read_request(value: Any, rest_bytes: int, signature: Signature) -> _Understood:
    request = _Fields(value, "request", ("id", "parameters", "inputs", "outputs"))
    parameters = request.parameters()
    subnet = parameters.get("subnet")
    if subnet is not None and not isinstance(subnet, str):
        refuse(f"request.parameters.subnet is {shown(subnet)}; expected the name of a subnet")
    return _Understood(
        images=_read_input(request.value.get("inputs"), rest_bytes, signature),
        output=_read_output(request.value.get("outputs"), parameters, signature),
        id=request.text("id") if "id" in request.value else None,
        timeout_s=_read_timeout(parameters),
        subnet=subnet,
    )


def parse_control(
    body: bytes | memoryview, known: Mapping[str, type], *, parameters: Mapping[str, type] | None = None
) -> dict[str, Any]:
    """Understand what is said beside the name when models are listed, loaded or unloaded; an empty body says nothing.

    Args:
        body: the whole body, decompressed.
        known: keys with the types of their values.
        parameters: keys that the object ``parameters`` may hold, with the types of their values.

    Returns:
        The values of the known keys that were given.

    Raises:
        RefusedError: no JSON object, an unknown key, or a value of another type; 400.
    """
    if not body:
        return {}
    where = "the request"
    said = _Fields(parse_json(body, "an object or nothing"), where, (*known, "parameters")).value
    free = said.pop("parameters", {})
    inner = _Fields(free, f"{where}.parameters", tuple(parameters or ())).value
    for place, values, types in ((where, said, known), (f"{where}.parameters", inner, parameters or {})):
        for key, value in values.items():
            if type(value) is not types[key]:
                refuse(f"{place}.{key} is {shown(value)}; expected {types[key].__name__}")
    return said


def _read_timeout(parameters: Mapping[str, Any]) -> float:
    if "timeout" not in parameters:
        return math.inf
    microseconds = _whole_number(parameters["timeout"], "request.parameters.timeout", least=0)
    # Zero means none, as in the protocol's scheduling extension.
    return min(microseconds / 1e6, _MAX_TIMEOUT_S) if microseconds else math.inf


def _read_output(outputs: Any, parameters: Mapping[str, Any], signature: Signature) -> RequestedOutput:
    default = _flag(parameters.get("binary_data_output", False), "request.parameters.binary_data_output")
    if outputs is None or outputs == []:
        return RequestedOutput(is_binary=default)
    given = signature.output
    if not isinstance(outputs, list) or len(outputs) != 1:
        refuse(f"request.outputs is {shown(outputs)}; expected a list of the one output {given.name!r}")
    output = _Fields(outputs[0], "request.outputs[0]", ("name", "parameters"))
    if output.text("name") != given.name:
        refuse(f"request.outputs[0].name is {shown(output.text('name'))}; expected {given.name!r}")
    asked = output.parameters()
    where = "request.outputs[0].parameters"
    classes = _whole_number(asked.get("classification", 0), f"{where}.classification", least=0)
    return RequestedOutput(
        is_binary=_flag(asked.get("binary_data", default), f"{where}.binary_data"),
        classification=min(classes, given.shape[0]),
    )


def _read_input(inputs: Any, rest_bytes: int, signature: Signature) -> AnyArray | tuple[int, ...]:
    """Return the images, or their shape when they follow in bytes."""
    spec = signature.input
    if not isinstance(inputs, list) or len(inputs) != 1:
        refuse(f"request.inputs is {shown(inputs)}; expected a list of the one input {spec.name!r}")
    where = _INPUT
    tensor = _Fields(inputs[0], where, ("name", "shape", "datatype", "parameters", "data"))
    if tensor.text("name") != spec.name:
        refuse(f"{where}.name is {shown(tensor.text('name'))}; expected {spec.name!r}")
    if tensor.text("datatype") != spec.datatype:
        refuse(f"{where}.datatype is {shown(tensor.text('datatype'))}; expected {spec.datatype!r}")
    shape = check_shape(tensor.value.get("shape"), where, spec)
    parameters = tensor.parameters()
    if "binary_data_size" not in parameters:
        if rest_bytes:
            refuse(f"{rest_bytes} bytes follow the JSON, which claims none of them; expected binary_data_size")
        if "data" not in tensor.value:
            refuse(f"{where}.data is missing; expected the tensor's values, or binary_data_size and the bytes")
        return array_from_lists(tensor.value["data"], shape, f"{where}.data", spec)
    if "data" in tensor.value:
        refuse(f"{where} has both data and binary_data_size; expected one of them")
    size = _whole_number(parameters["binary_data_size"], f"{where}.parameters.binary_data_size", least=0)
    if size != rest_bytes:
        refuse(f"{where}.parameters.binary_data_size is {size}; expected {rest_bytes}, the bytes after the JSON")
    return shape
