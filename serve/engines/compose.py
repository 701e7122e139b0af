"""Put the graph that takes raw pixels in front of a model, so that a runner loads one graph and clients send bytes.

Relies on ONNX files being protocol buffers, of which only the few fields that name inputs, nodes and constants are
read here: a device needs neither the onnx package nor protobuf, and weights are copied once, unread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from deps.ground.errors import BundleError
from deps.serve.engines import wire
from deps.serve.manifest import REMAKE

# Field numbers of onnx.proto, by message.
MODEL_GRAPH, MODEL_OPSETS = 7, 8
GRAPH_NODES, GRAPH_NAME, GRAPH_CONSTANTS, GRAPH_INPUTS, GRAPH_OUTPUTS, GRAPH_VALUES = 1, 2, 5, 11, 12, 13
NODE_OUTPUTS, CONSTANT_NAME, VALUE_NAME, VALUE_TYPE = 2, 8, 1, 2
TYPE_TENSOR, TENSOR_ELEMENT, TENSOR_SHAPE, SHAPE_DIM, DIM_VALUE = 1, 1, 2, 1, 1
OPSET_DOMAIN, OPSET_VERSION = 1, 2

FLOAT, UINT8 = 1, 2
"""Element types of onnx.proto."""


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
        *(wire.packed(GRAPH_NODES, node) for node in first.all(GRAPH_NODES)),
        *(field.whole for field in second.fields if field.number != GRAPH_INPUTS),
        *(wire.packed(GRAPH_CONSTANTS, constant) for constant in first.all(GRAPH_CONSTANTS)),
        # What was the model's input is a value inside now; its shape is worth keeping.
        wire.packed(GRAPH_VALUES, second.input),
        wire.packed(GRAPH_INPUTS, _value(first.input_name, first.input_element, boundary.shape)),
    ]
    others = (field.whole for field in second.model_fields if field.number != MODEL_GRAPH)
    return b"".join((*others, wire.packed(MODEL_GRAPH, b"".join(graph))))


class _Boundary(NamedTuple):
    """The value that the raw graph gives and the model takes."""

    name: str
    shape: memoryview


class _Graph:
    """The graph of a file, as far as joining needs to know it."""

    def __init__(self, content: bytes, what: str) -> None:
        self.what = what
        try:
            self.model_fields = list(wire.fields(memoryview(content)))
            self.fields = list(wire.fields(wire.message_of(self._only(self.model_fields, MODEL_GRAPH, "graph"))))
            self.input = wire.message_of(self._only(self.fields, GRAPH_INPUTS, "input"))
            self.output = wire.message_of(self._only(self.fields, GRAPH_OUTPUTS, "output"))
            self.input_name, self.output_name = (
                wire.text_of(wire.one(self.input, VALUE_NAME)),
                wire.text_of(wire.one(self.output, VALUE_NAME)),
            )
            self.input_element, self.input_shape = _tensor(self.input)
            self.output_element, self.output_shape = _tensor(self.output)
            self.opset = self._opset()
            self.names = self._names()
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            raise BundleError(f"{what} is damaged ({error}); expected a whole ONNX file; {REMAKE}") from error

    def all(self, number: int) -> Iterator[memoryview]:
        """Yield the content of every field of that number."""
        return (wire.message_of(field.value) for field in self.fields if field.number == number)

    def _only(self, fields: list[wire.Field], number: int, noun: str) -> int | memoryview:
        found = [field.value for field in fields if field.number == number]
        if len(found) != 1:
            raise ValueError(f"{len(found)} fields where one {noun} belongs")
        return found[0]

    def _opset(self) -> int:
        """Return the version of ONNX's own operators."""
        for field in self.model_fields:
            if field.number == MODEL_OPSETS:
                entry = {part.number: part.value for part in wire.fields(wire.message_of(field.value))}
                if wire.text_of(entry.get(OPSET_DOMAIN, memoryview(b""))) in ("", "ai.onnx"):
                    version = entry.get(OPSET_VERSION)
                    if isinstance(version, int):
                        return version
        raise ValueError("no opset")

    def _names(self) -> set[str]:
        """Return the names of everything that a node or a constant defines."""
        names = {wire.text_of(wire.one(constant, CONSTANT_NAME)) for constant in self.all(GRAPH_CONSTANTS)}
        for node in self.all(GRAPH_NODES):
            names.update(wire.text_of(field.value) for field in wire.fields(node) if field.number == NODE_OUTPUTS)
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
    tensor = wire.message_of(wire.one(wire.message_of(wire.one(value, VALUE_TYPE)), TYPE_TENSOR))
    element = wire.one(tensor, TENSOR_ELEMENT)
    if not isinstance(element, int):
        raise ValueError("an element type that is no number")
    return element, wire.message_of(wire.one(tensor, TENSOR_SHAPE))


def _dims(shape: memoryview) -> list[int]:
    """Return the sizes of a shape; 0 where any size will do."""
    sizes = []
    for field in wire.fields(shape):
        if field.number == SHAPE_DIM:
            found = [part.value for part in wire.fields(wire.message_of(field.value)) if part.number == DIM_VALUE]
            sizes.append(found[0] if found and isinstance(found[0], int) else 0)
    return sizes


def _value(name: str, element: int, shape: memoryview) -> bytes:
    """Return the declaration of a value."""
    tensor = wire.tag_of(TENSOR_ELEMENT, wire.VARINT) + wire.varint(element) + wire.packed(TENSOR_SHAPE, shape)
    return wire.packed(VALUE_NAME, name.encode()) + wire.packed(VALUE_TYPE, wire.packed(TYPE_TENSOR, tensor))
