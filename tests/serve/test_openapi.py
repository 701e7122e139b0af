"""The OpenAPI document is true: schemathesis, which nobody here wrote, tries every line of it against a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from deps.serve.service import ServeOptions
from running import Running, running

OPTIONS = ServeOptions(subnet="large", max_batch=4, num_threads=1)


def _no_error_of_ours(_: Any, response: Any, __: Any) -> None:
    """503 is an answer: not loaded, not in time; any other 5xx is a bug."""
    assert response.status_code < 500 or response.status_code == 503, response.content


CHECKS = [
    _no_error_of_ours,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture(scope="module")
def server(make_bundle: Callable[..., Path]) -> Iterator[Running]:
    with running(make_bundle(), options=OPTIONS) as server:
        yield server


@pytest.fixture(scope="module")
def document(server: Running) -> dict[str, Any]:
    answer = server.client.get("/openapi.json")
    assert answer.status_code == 200
    return answer.json()


def _operations(document: dict[str, Any]) -> list[Any]:
    return [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
def test_every_operation_answers_as_the_document_says(document: dict[str, Any], server: Running, mode: GenerationMode):
    """Right and wrong requests of all kinds: no 500, and no status, type or shape that is not written down."""
    tried = set()
    for operation in _operations(document):
        if mode is GenerationMode.NEGATIVE and not _can_be_wrong(operation):
            continue

        @settings(
            max_examples=4,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def try_it(case: schemathesis.Case) -> None:
            answer = case.call(base_url=server.url)
            case.validate_response(answer, checks=CHECKS)
            if case.path.endswith("/unload"):
                server.client.post("/v2/repository/models/tiny/load").raise_for_status()

        try_it()
        tried.add(operation.path)
    assert {"/v2/models/tiny/infer", "/v2/models/tiny-uint8/versions/1/classify"} <= tried


def test_every_address_of_the_document_is_there(document: dict[str, Any], server: Running):
    """A 404 is a documented answer, so that an address with nothing behind it would pass for true."""
    for path, operations in document["paths"].items():
        if "/repository/models/" in path:
            continue  # these load and unload; NVIDIA's client asks them in test_http.py
        (method,) = operations
        status = server.client.request(method, path).status_code
        assert status == 200 if method == "get" else status not in (404, 405), (method, path)


def _can_be_wrong(operation: Any) -> bool:
    return bool(operation.body or operation.query or operation.headers)
