"""Read and write protocol buffers field by field, as far as ONNX files need it on a device that has no onnx package.

Relies on nothing but the encoding: a tag with number and kind, then a number, a fixed size, or a length and content.
Contents are views of the original bytes, so weights are never copied by reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, BYTES = 0, 2
_FIXED64, _FIXED32 = 1, 5

MODEL_GRAPH, GRAPH_NODES, NODE_NAME, NODE_OPERATOR = 7, 1, 3, 4
"""Field numbers of onnx.proto, by message."""


class Field(NamedTuple):
    """One field of a message."""

    number: int
    value: int | memoryview
    """A number, or the content of what has a length."""

    whole: memoryview
    """The field with its tag, as it stands in the message."""


def node_at(model: bytes, index: int) -> tuple[str, str] | None:
    """Return operator and name of a node of a model; None where there is no such node, or the file is damaged."""
    try:
        graph = message_of(one(memoryview(model), MODEL_GRAPH))
        nodes = [message_of(field.value) for field in fields(graph) if field.number == GRAPH_NODES]
        if not 0 <= index < len(nodes):
            return None
        found = {field.number: field.value for field in fields(nodes[index])}
        empty = memoryview(b"")
        return text_of(found.get(NODE_OPERATOR, empty)), text_of(found.get(NODE_NAME, empty))
    except (ValueError, UnicodeDecodeError):
        return None


def fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields of a message in order.

    Raises:
        ValueError: it ends inside a field, or holds what no ONNX file does.
    """
    place = 0
    while place < len(message):
        start = place
        tag, place = read_varint(message, place)
        number, kind = tag >> 3, tag & 7
        value: int | memoryview
        if kind == VARINT:
            value, place = read_varint(message, place)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            value, place = message[place : place + size], place + size
        elif kind == BYTES:
            size, place = read_varint(message, place)
            value, place = message[place : place + size], place + size
        else:
            raise ValueError(f"a field of kind {kind}")
        if place > len(message):
            raise ValueError("it ends inside a field")
        yield Field(number, value, message[start:place])


def read_varint(message: memoryview, place: int) -> tuple[int, int]:
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


def varint(value: int) -> bytes:
    """Return a number as it is written."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def tag_of(number: int, kind: int) -> bytes:
    """Return what stands before a field."""
    return varint(number << 3 | kind)


def packed(number: int, content: bytes | memoryview) -> bytes:
    """Return a field that has a length."""
    return b"".join((tag_of(number, BYTES), varint(len(content)), content))


def one(value: int | memoryview, number: int) -> int | memoryview:
    """Return the value of the one field of that number in a message.

    Raises:
        ValueError: there is none.
    """
    for field in fields(message_of(value)):
        if field.number == number:
            return field.value
    raise ValueError(f"field {number} is missing")


def message_of(value: int | memoryview) -> memoryview:
    """Return the content of a field that has a length.

    Raises:
        ValueError: it is a number.
    """
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return value


def text_of(value: int | memoryview) -> str:
    """Return the text of a field."""
    return bytes(message_of(value)).decode()
