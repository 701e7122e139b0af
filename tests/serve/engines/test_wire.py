"""Names of nodes are read from ONNX files without the onnx package, and what is no file gives none."""

from __future__ import annotations

import onnx
from hypothesis import given
from hypothesis import strategies as st

from deps.serve.engines.wire import fields, node_at, packed, read_varint, varint


def test_nodes_are_found_by_their_place(tiny):
    """TensorRT 8.6 tells only the place of a node that it cannot read."""
    model = tiny.onnx_bytes()
    nodes = onnx.load_from_string(model).graph.node
    assert [node_at(model, index) for index in range(len(nodes))] == [(node.op_type, node.name) for node in nodes]
    assert node_at(model, len(nodes)) is None
    assert node_at(model, -1) is None
    assert node_at(b"no model", 0) is None


@given(st.integers(0, 2**63 - 1))
def test_numbers_are_read_as_they_were_written(value: int):
    """Whatever their length."""
    written = varint(value)
    assert read_varint(memoryview(written), 0) == (value, len(written))


@given(st.lists(st.tuples(st.integers(1, 500), st.binary(max_size=20)), max_size=5))
def test_fields_are_read_as_they_were_written(parts: list[tuple[int, bytes]]):
    """Several of a number too, in their order."""
    message = b"".join(packed(number, content) for number, content in parts)
    found = [(field.number, bytes(field.value)) for field in fields(memoryview(message))]
    assert found == parts
