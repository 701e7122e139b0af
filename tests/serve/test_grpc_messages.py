"""The table of messages agrees with what NVIDIA's client was generated from: every number, type and label."""

from __future__ import annotations

from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from deps.serve.grpc_messages import CLASSES, ENUMS, MESSAGES, METHODS


def _theirs(name: str) -> Any:
    for module in (service_pb2, model_config_pb2):
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return found
    raise AssertionError(name)


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_are_the_protocols(name: str):
    """A wrong number is not an error on the wire: the value is silently another, or none."""
    theirs = _theirs(name).DESCRIPTOR.fields_by_name
    for field in CLASSES[name].DESCRIPTOR.fields:
        twin = theirs[field.name]
        assert (field.number, field.type, field.is_repeated) == (twin.number, twin.type, twin.is_repeated)
        assert getattr(field.containing_oneof, "name", None) == getattr(twin.containing_oneof, "name", None)
        if field.message_type is not None:
            assert field.message_type.full_name == twin.message_type.full_name


@pytest.mark.parametrize("name", ENUMS)
def test_enums_are_the_protocols(name: str):
    """The same for the numbers of names."""
    theirs = dict(_theirs(name).items())
    assert ENUMS[name].items() <= theirs.items()


def test_methods_are_the_protocols():
    """What a client calls by name."""
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in METHODS:
        twin = theirs.methods_by_name[method]
        assert (twin.input_type.name, twin.output_type.name) == (f"{method}Request", f"{method}Response")
