"""Put the graph that takes raw pixels in front of a model, so that a runner loads one graph and clients send bytes.

Relies on ONNX files being protocol buffers, of which only the few fields that name inputs, nodes and constants are
read here: a device needs neither the onnx package nor protobuf, and weights are copied once, unread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from deps.ground.errors import BundleError
from deps.serve.manifest import REMAKE

# Field numbers of onnx.proto, by message.
MODEL_GRAPH, MODEL_OPSETS = 7, 8
GRAPH_NODES, GRAPH_NAME, GRAPH_CONSTANTS, GRAPH_INPUTS, GRAPH_OUTPUTS, GRAPH_VALUES = 1, 2, 5, 11, 12, 13
NODE_OUTPUTS, CONSTANT_NAME, VALUE_NAME, VALUE_TYPE = 2, 8, 1, 2
TYPE_TENSOR, TENSOR_ELEMENT, TENSOR_SHAPE, SHAPE_DIM, DIM_VALUE = 1, 1, 2, 1, 1
OPSET_DOMAIN, OPSET_VERSION = 1, 2

FLOAT, UINT8 = 1, 2
"""Element types of onnx.proto."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    """One field of a message."""

    number: int
    value: int | memoryview
    """A number, or the content of what has a length."""

    whole: memoryview
    """The field with its tag, as it stands in the message."""


def with_raw_input(model: bytes, raw: bytes) -> bytes:
    """Return a model that takes raw pixels: the raw graph's nodes, then the model's, in one graph.

    The input bears the raw graph's name, its element type, and the model's shape; the outputs stay the model's.

    Args:
        model: an ONNX file with one input of float32.
        raw: an ONNX file with one input of uint8, whose one output is named as the model's input.

    Returns:
        One ONNX file.

    Raises:
        BundleError: one of the files is damaged, or they do not fit each other.
    """
    first, second = _Graph(raw, "the raw-pixel graph"), _Graph(model, "the model")
    boundary = _join(first, second)
    graph: list[bytes | memoryview] = [
        *(_packed(GRAPH_NODES, node) for node in first.all(GRAPH_NODES)),
        *(field.whole for field in second.fields if field.number != GRAPH_INPUTS),
        *(_packed(GRAPH_CONSTANTS, constant) for constant in first.all(GRAPH_CONSTANTS)),
        # What was the model's input is a value inside now; its shape is worth keeping.
        _packed(GRAPH_VALUES, second.input),
        _packed(GRAPH_INPUTS, _value(first.input_name, first.input_element, boundary.shape)),
    ]
    others = (field.whole for field in second.model_fields if field.number != MODEL_GRAPH)
    return b"".join((*others, _packed(MODEL_GRAPH, b"".join(graph))))


class _Boundary(NamedTuple):
    """The value that the raw graph gives and the model takes."""

    name: str
    shape: memoryview


class _Graph:
    """The graph of a file, as far as joining needs to know it."""

    def __init__(self, content: bytes, what: str) -> None:
        self.what = what
        try:
            self.model_fields = list(_fields(memoryview(content)))
            self.fields = list(_fields(_bytes(self._only(self.model_fields, MODEL_GRAPH, "graph"))))
            self.input = _bytes(self._only(self.fields, GRAPH_INPUTS, "input"))
            self.output = _bytes(self._only(self.fields, GRAPH_OUTPUTS, "output"))
            self.input_name, self.output_name = (
                _text(_one(self.input, VALUE_NAME)),
                _text(_one(self.output, VALUE_NAME)),
            )
            self.input_element, self.input_shape = _tensor(self.input)
            self.output_element, self.output_shape = _tensor(self.output)
            self.opset = self._opset()
            self.names = self._names()
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            raise BundleError(f"{what} is damaged ({error}); expected a whole ONNX file; {REMAKE}") from error

    def all(self, number: int) -> Iterator[memoryview]:
        """Yield the content of every field of that number."""
        return (_bytes(field.value) for field in self.fields if field.number == number)

    def _only(self, fields: list[_Field], number: int, noun: str) -> int | memoryview:
        found = [field.value for field in fields if field.number == number]
        if len(found) != 1:
            raise ValueError(f"{len(found)} fields where one {noun} belongs")
        return found[0]

    def _opset(self) -> int:
        """Return the version of ONNX's own operators."""
        for field in self.model_fields:
            if field.number == MODEL_OPSETS:
                entry = {part.number: part.value for part in _fields(_bytes(field.value))}
                if _text(entry.get(OPSET_DOMAIN, memoryview(b""))) in ("", "ai.onnx"):
                    version = entry.get(OPSET_VERSION)
                    if isinstance(version, int):
                        return version
        raise ValueError("no opset")

    def _names(self) -> set[str]:
        """Return the names of everything that a node or a constant defines."""
        names = {_text(_one(constant, CONSTANT_NAME)) for constant in self.all(GRAPH_CONSTANTS)}
        for node in self.all(GRAPH_NODES):
            names.update(_text(field.value) for field in _fields(node) if field.number == NODE_OUTPUTS)
        return names


def _join(raw: _Graph, model: _Graph) -> _Boundary:
    """Return what connects the two, or say why they do not fit."""

    def misfit(found: str, expected: str) -> BundleError:
        return BundleError(f"{found}; expected {expected}, so that raw pixels can go in; {REMAKE}")

    if raw.output_name != model.input_name:
        raise misfit(f"the model takes {model.input_name!r}", f"{raw.output_name!r}, which the raw-pixel graph gives")
    if raw.input_element != UINT8 or (raw.output_element, model.input_element) != (FLOAT, FLOAT):
        elements = f"{raw.input_element} to {raw.output_element}, and {model.input_element} into the model"
        raise misfit(f"the element types are {elements}", f"{UINT8} to {FLOAT} (uint8 to float32), and {FLOAT}")
    if raw.opset != model.opset:
        raise misfit(f"the model has opset {model.opset}", f"{raw.opset}, the raw-pixel graph's")
    given, taken = _dims(raw.output_shape), _dims(model.input_shape)
    if len(given) != len(taken) or any(a and b and a != b for a, b in zip(given, taken, strict=False)):
        raise misfit(f"the model takes the shape {taken}", f"one that fits {given} (0 is any)")
    shared = (raw.names | {raw.input_name}) & (model.names | {model.input_name}) - {raw.output_name}
    if shared:
        raise misfit(f"both graphs define {', '.join(sorted(shared))}", "names of their own")
    return _Boundary(model.input_name, model.input_shape)


def _tensor(value: memoryview) -> tuple[int, memoryview]:
    """Return the element type of a declared value, and its shape as it is written."""
    tensor = _bytes(_one(_bytes(_one(value, VALUE_TYPE)), TYPE_TENSOR))
    element = _one(tensor, TENSOR_ELEMENT)
    if not isinstance(element, int):
        raise ValueError("an element type that is no number")
    return element, _bytes(_one(tensor, TENSOR_SHAPE))


def _dims(shape: memoryview) -> list[int]:
    """Return the sizes of a shape; 0 where any size will do."""
    sizes = []
    for field in _fields(shape):
        if field.number == SHAPE_DIM:
            found = [part.value for part in _fields(_bytes(field.value)) if part.number == DIM_VALUE]
            sizes.append(found[0] if found and isinstance(found[0], int) else 0)
    return sizes


def _value(name: str, element: int, shape: memoryview) -> bytes:
    """Return the declaration of a value."""
    tensor = _tag(TENSOR_ELEMENT, _VARINT) + _varint(element) + _packed(TENSOR_SHAPE, shape)
    return _packed(VALUE_NAME, name.encode()) + _packed(VALUE_TYPE, _packed(TYPE_TENSOR, tensor))


def _fields(message: memoryview) -> Iterator[_Field]:
    """Yield the fields of a message in order.

    Raises:
        ValueError: it ends inside a field, or holds what no ONNX file does.
    """
    place = 0
    while place < len(message):
        start = place
        tag, place = _read_varint(message, place)
        number, kind = tag >> 3, tag & 7
        value: int | memoryview
        if kind == _VARINT:
            value, place = _read_varint(message, place)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            value, place = message[place : place + size], place + size
        elif kind == _BYTES:
            size, place = _read_varint(message, place)
            value, place = message[place : place + size], place + size
        else:
            raise ValueError(f"a field of kind {kind}")
        if place > len(message):
            raise ValueError("it ends inside a field")
        yield _Field(number, value, message[start:place])


def _read_varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return a number and the place after it."""
    value = shift = 0
    while True:
        if place >= len(message) or shift > 63:
            raise ValueError("it ends inside a number")
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _packed(number: int, content: bytes | memoryview) -> bytes:
    """Return a field that has a length."""
    return b"".join((_tag(number, _BYTES), _varint(len(content)), content))


def _one(value: int | memoryview, number: int) -> int | memoryview:
    """Return the value of the one field of that number in a message.

    Raises:
        ValueError: there is none.
    """
    for field in _fields(_bytes(value)):
        if field.number == number:
            return field.value
    raise ValueError(f"field {number} is missing")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode()
