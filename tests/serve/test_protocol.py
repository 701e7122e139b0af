"""The protocol: what is said comes through, and everything that is wrong with a request is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deps.serve.bundle import read_bundle
from deps.serve.manifest import Manifest, RawInput
from deps.serve.protocol import InferRequest, RequestedOutput, parse_infer, parse_timeout_header
from deps.serve.refusals import RefusedError
from deps.serve.signature import Signature, signatures

BATCHES = hnp.arrays(
    np.float32,
    st.integers(1, 3).map(lambda n: (n, 1, 8, 8)),
    elements=st.floats(-(2**127), 2**127, width=32),
    fill=st.just(np.float32(0.5)),
)


@pytest.fixture(scope="module")
def signature(make_bundle) -> Signature:
    return signatures(read_bundle(make_bundle()).manifest)[0]


def _json_request(images: np.ndarray, *, nested: bool = False) -> dict[str, Any]:
    data = images.tolist() if nested else images.ravel().tolist()
    return {"inputs": [{"name": "input", "shape": list(images.shape), "datatype": "FP32", "data": data}]}


def _binary(images: np.ndarray, **keys: Any) -> tuple[bytes, str]:
    """Return body and header of a request with a binary tensor."""
    size = {"binary_data_size": images.nbytes}
    tensor = {"name": "input", "shape": list(images.shape), "datatype": "FP32", "parameters": size}
    text = json.dumps({"inputs": [tensor], **keys}).encode()
    return text + images.tobytes(), str(len(text))


def _status(answer: Callable[[], object]) -> int:
    """Return the status of whatever ``answer`` does; an error that is no refusal goes through."""
    try:
        answer()
    except RefusedError as error:
        return error.status
    return 200


def _parse(value: Any, signature: Signature) -> InferRequest:
    return parse_infer(json.dumps(value).encode(), None, signature)


@given(images=BATCHES, nested=st.booleans())
def test_json_tensor_arrives_bit_for_bit(signature: Signature, images: np.ndarray, nested: bool):
    """Flat or nested, every float32 survives the way through decimal text."""
    np.testing.assert_array_equal(_parse(_json_request(images, nested=nested), signature).images, images)


@given(images=BATCHES, request_id=st.text(max_size=8))
def test_binary_tensor_arrives_bit_for_bit(signature: Signature, images: np.ndarray, request_id: str):
    """The binary extension carries the bytes themselves, beside an id in any script."""
    body, header = _binary(images, id=request_id, parameters={"binary_data_output": True})
    request = parse_infer(body, header, signature)
    np.testing.assert_array_equal(request.images, images)
    assert request.id == request_id
    assert request.output == RequestedOutput(is_binary=True)


def test_body_without_json_is_one_tensor(signature: Signature, images):
    """The protocol's shortest request: header 0 and the images."""
    request = parse_infer(images.tobytes(), "0", signature)
    np.testing.assert_array_equal(request.images, images)
    assert request.output.is_binary


def test_more_classes_than_there_are_gives_all(signature: Signature):
    """A client that asks for the top 1000 of 10 gets 10."""
    asked = {"name": "logits", "parameters": {"classification": 1000}}
    request = _parse(_json_request(np.zeros((1, 1, 8, 8), np.float32)) | {"outputs": [asked]}, signature)
    assert request.output.classification == 10


def test_timeout_is_in_microseconds(signature: Signature):
    """The scheduling extension's unit; zero and absent mean no limit."""
    plain = _json_request(np.zeros((1, 1, 8, 8), np.float32))
    assert _parse(plain | {"parameters": {"timeout": 2500}}, signature).timeout_s == 0.0025
    assert _parse(plain | {"parameters": {"timeout": 0}}, signature).timeout_s == math.inf
    assert _parse(plain, signature).timeout_s == math.inf


@pytest.mark.parametrize(("text", "seconds"), [(None, math.inf), ("50", 0.05), ("2.5", 0.0025), ("9" * 18, 1e6)])
def test_timeout_header_is_in_milliseconds(text: str | None, seconds: float):
    """What a person types with curl, and what a picture's request has no parameters for."""
    assert parse_timeout_header(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0.0", "-1", "1e3", "inf", "nan", "5ms", "٣", ".5", "1.x", "9" * 19])
def test_header_that_is_no_time_is_refused(text: str):
    """A deadline that cannot be read must not become none."""
    with pytest.raises(RefusedError, match=r"Deps-Timeout-Ms is .*; expected a positive number of milliseconds"):
        parse_timeout_header(text)


ONE = [0.0] * 64
GOOD = {"name": "input", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": ONE}


@pytest.mark.parametrize(
    ("request_value", "said"),
    [
        ([], "request is []; expected a JSON object"),
        ({}, "request.inputs is missing; expected a list of the one input 'input'"),
        ({"inputs": None}, "request.inputs is missing"),
        ({"inputs": []}, "request.inputs is []"),
        ({"inputs": [GOOD, GOOD]}, "expected a list of the one input"),
        ({"inputs": [None]}, "request.inputs[0] is missing; expected a JSON object"),
        ({"inputs": [GOOD], "input": 1}, "request has the unknown key 'input'"),
        ({"inputs": [GOOD], "id": 7}, "request.id is 7; expected text"),
        ({"inputs": [GOOD], "id": None}, "request.id is missing; expected text"),
        ({"inputs": [GOOD], "parameters": []}, "request.parameters is []"),
        ({"inputs": [GOOD], "parameters": {"x": None}}, "request.parameters.x is missing"),
        ({"inputs": [GOOD], "parameters": {"x": [1]}}, "expected text, a number, true or false"),
        ({"inputs": [GOOD], "parameters": {"timeout": -1}}, "request.parameters.timeout is -1"),
        ({"inputs": [GOOD], "parameters": {"timeout": 1.5}}, "request.parameters.timeout is 1.5"),
        ({"inputs": [GOOD], "parameters": {"binary_data_output": 1}}, "expected true or false"),
        ({"inputs": [GOOD | {"name": "image"}]}, "request.inputs[0].name is 'image'; expected 'input'"),
        ({"inputs": [GOOD | {"datatype": "FP64"}]}, "request.inputs[0].datatype is 'FP64'; expected 'FP32'"),
        ({"inputs": [GOOD | {"extra": 1}]}, "request.inputs[0] has the unknown key 'extra'"),
        ({"inputs": [GOOD | {"shape": [1, 64]}]}, "request.inputs[0].shape is [1, 64]; expected [N, 1, 8, 8]"),
        ({"inputs": [GOOD | {"shape": [0, 1, 8, 8]}]}, "with N of at least 1"),
        ({"inputs": [GOOD | {"shape": [-1, 1, 8, 8]}]}, "with N of at least 1"),
        ({"inputs": [GOOD | {"shape": [True, 1, 8, 8]}]}, "shape is [True, 1, 8, 8]"),
        ({"inputs": [GOOD | {"shape": [1.0, 1, 8, 8]}]}, "shape is [1.0, 1, 8, 8]"),
        ({"inputs": [GOOD | {"shape": []}]}, "shape is []"),
        ({"inputs": [GOOD | {"shape": None}]}, "shape is missing"),
        ({"inputs": [GOOD | {"data": None}]}, "data is missing; expected a list of numbers"),
        ({"inputs": [GOOD | {"data": 5}]}, "data is 5; expected a list of numbers"),
        ({"inputs": [GOOD | {"data": ONE[:-1]}]}, "data holds 63 values; expected 64"),
        ({"inputs": [GOOD | {"data": [*ONE[:-1], None]}]}, "data holds NoneType; expected numbers only"),
        ({"inputs": [GOOD | {"data": [*ONE[:-1], True]}]}, "data holds bool"),
        ({"inputs": [GOOD | {"data": [*ONE[:-1], "1"]}]}, "data holds str"),
        ({"inputs": [GOOD | {"data": [*ONE[:-1], [1]]}]}, "data holds list"),
        ({"inputs": [GOOD | {"data": [*ONE[:-1], 1e39]}]}, "data holds a number beyond FP32"),
        ({"inputs": [GOOD | {"data": [*ONE[:-1], 10**400]}]}, "data holds a number beyond FP32"),
        ({"inputs": [GOOD | {"data": [[0.0] * 8] * 8}]}, "nested otherwise than the shape"),
        ({"inputs": [GOOD | {"data": [ONE]}]}, "nested otherwise than the shape"),
        ({"inputs": [GOOD | {"data": [[[[0.0] * 8] * 7]]}]}, "nested otherwise than the shape"),
        ({"inputs": [GOOD | {"data": [[[]]]}]}, "nested otherwise than the shape"),
        ({"inputs": [{key: GOOD[key] for key in ("name", "shape", "datatype")}]}, "data is missing"),
        ({"inputs": [GOOD | {"parameters": {"binary_data_size": 256}}]}, "both data and binary_data_size"),
        ({"inputs": [GOOD | {"parameters": {"shared_memory_region": "x"}}]}, "shared memory is not served"),
        ({"inputs": [GOOD], "outputs": {}}, "request.outputs is {}"),
        ({"inputs": [GOOD], "outputs": [{"name": "logits"}] * 2}, "expected a list of the one output 'logits'"),
        ({"inputs": [GOOD], "outputs": [{"name": "scores"}]}, "request.outputs[0].name is 'scores'; expected 'logits'"),
        ({"inputs": [GOOD], "outputs": [{}]}, "request.outputs[0].name is missing"),
        (
            {"inputs": [GOOD], "outputs": [{"name": "logits", "parameters": {"classification": -1}}]},
            "classification is -1",
        ),
        (
            {"inputs": [GOOD], "outputs": [{"name": "logits", "parameters": {"binary_data": "yes"}}]},
            "binary_data is 'yes'",
        ),
    ],
)
def test_wrong_request_is_refused_by_name(signature: Signature, request_value: Any, said: str):
    """Peers answer some of these with 500 and some with 200; each is the client's mistake, and says which."""
    with pytest.raises(RefusedError) as caught:
        _parse(request_value, signature)
    assert said in str(caught.value)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 250_000, "nested too deeply"),
        (b'{"inputs": [{"name": "input", "data": [NaN]}]}', "holds NaN"),
        (b'{"id": "a", "x": Infinity}', "holds Infinity"),
    ],
)
def test_body_that_is_no_json_is_refused(signature: Signature, body: bytes, said: str):
    """250,000 brackets kill one well-known server."""
    with pytest.raises(RefusedError, match=said):
        parse_infer(body, None, signature)


@pytest.mark.parametrize("header", ["NaN", "-1", "1e3", "", " 12", "٣", "9" * 30, "100000"])
def test_header_that_is_no_length_is_refused(signature: Signature, header: str):
    """A header is text from outside; only digits that stay inside the body count."""
    with pytest.raises(RefusedError, match="Inference-Header-Content-Length is"):
        parse_infer(b"{}", header, signature)


def test_bytes_that_do_not_fit_are_refused(signature: Signature, images):
    """Extra bytes are accepted by one peer; they are a sign that client and server disagree."""
    body, header = _binary(images)
    for wrong, said in ((body + b"x", "binary_data_size is"), (body[:-4], "binary_data_size is")):
        with pytest.raises(RefusedError, match=said):
            parse_infer(wrong, header, signature)
    claims = [{"name": "input", "shape": [2, 1, 8, 8], "datatype": "FP32", "parameters": {"binary_data_size": 256}}]
    text = json.dumps({"inputs": claims}).encode()
    with pytest.raises(RefusedError, match="holds 256 bytes; expected 512 for the shape"):
        parse_infer(text + bytes(256), str(len(text)), signature)
    text = json.dumps({"inputs": [GOOD]}).encode()
    with pytest.raises(RefusedError, match="3 bytes follow the JSON, which claims none of them"):
        parse_infer(text + b"abc", str(len(text)), signature)
    for raw in (b"", bytes(255)):
        with pytest.raises(RefusedError, match="expected a multiple of 256"):
            parse_infer(raw, "0", signature)


@given(body=st.binary(max_size=300), header=st.none() | st.integers(0, 300).map(str))
def test_any_bytes_are_answered_or_refused(signature: Signature, body: bytes, header: str | None):
    """Whatever arrives, nothing but a refusal comes out of the parser."""
    assert _status(lambda: parse_infer(body, header, signature)) in (200, 400)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "data", "shape"]), inner),
    max_leaves=8,
)


@given(key=st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), value=JSON)
def test_any_value_of_any_key_is_answered_or_refused(signature: Signature, key: str, value: Any):
    """The same from inside a request that is otherwise right."""
    assert _status(lambda: _parse({"inputs": [GOOD | {key: value}]}, signature)) in (200, 400)


@pytest.fixture(scope="module")
def raw_signature(make_bundle) -> Signature:
    plain = read_bundle(make_bundle()).manifest.to_dict()
    raw = RawInput(path="models/uint8.onnx", sha256="0" * 64, size_bytes=1)
    plain["raw_input"] = {"path": raw.path, "sha256": raw.sha256, "size_bytes": raw.size_bytes}
    own, pixels = signatures(Manifest.from_dict(plain))
    assert not own.takes_raw
    assert pixels.takes_raw
    assert (pixels.name, pixels.input.name, pixels.output) == ("tiny-uint8", "image", own.output)
    return pixels


@given(pixels=hnp.arrays(np.uint8, st.integers(1, 3).map(lambda n: (n, 1, 8, 8))), way=st.sampled_from("jbr"))
def test_raw_pixels_arrive_as_they_are(raw_signature: Signature, pixels: np.ndarray, way: str):
    """A quarter of the bytes of floats, as JSON, as a binary tensor, and as a body of nothing else."""
    tensor = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8"}
    if way == "j":
        request = _parse({"inputs": [tensor | {"data": pixels.ravel().tolist()}]}, raw_signature)
    elif way == "b":
        text = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": pixels.size}}]}).encode()
        request = parse_infer(text + pixels.tobytes(), str(len(text)), raw_signature)
    else:
        request = parse_infer(pixels.tobytes(), "0", raw_signature)
    assert request.images.dtype == np.uint8
    np.testing.assert_array_equal(request.images, pixels)


@pytest.mark.parametrize(
    ("value", "said"),
    [(-1, "beyond UINT8"), (256, "beyond UINT8"), (1.0, "holds float; expected whole numbers only"), (True, "bool")],
)
def test_what_is_no_pixel_is_refused(raw_signature: Signature, value: Any, said: str):
    """A silent wrap-around would classify another picture."""
    tensor = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "UINT8", "data": [0] * 63 + [value]}
    with pytest.raises(RefusedError, match=said):
        _parse({"inputs": [tensor]}, raw_signature)
