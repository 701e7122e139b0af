"""Answers: what was computed leaves bit for bit, as numbers, bytes or class names."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deps.serve.answers import encode_infer, json_bytes
from deps.serve.bundle import read_bundle
from deps.serve.computed import AnsweredBy, Computed
from deps.serve.protocol import InferRequest, RequestedOutput
from deps.serve.refusals import RefusedError
from deps.serve.signature import Signature, signatures


@pytest.fixture(scope="module")
def signature(make_bundle) -> Signature:
    return signatures(read_bundle(make_bundle()).manifest)[0]


def _computed(logits: np.ndarray) -> Computed:
    return Computed(logits, AnsweredBy("large", "fp32", "onnxruntime 1"), queue_s=0.0, compute_s=0.001)


@given(
    logits=hnp.arrays(
        np.float32, st.integers(1, 4).map(lambda n: (n, 10)), elements=st.floats(-(2**100), 2**100, width=32)
    ),
    is_binary=st.booleans(),
)
def test_logits_leave_bit_for_bit(signature: Signature, logits: np.ndarray, is_binary: bool):
    """An answer read back by the protocol's rules is the array that was computed."""
    request = InferRequest(np.zeros((len(logits), 1, 8, 8), np.float32), RequestedOutput(is_binary), id="7")
    answer = encode_infer(request, _computed(logits), signature)
    plain = json.loads(answer.body[: answer.json_length])
    (tensor,) = plain["outputs"]
    if is_binary:
        raw = answer.body[answer.json_length :]
        assert tensor["parameters"] == {"binary_data_size": len(raw)}
        values = np.frombuffer(raw, "<f4")
    else:
        assert answer.json_length is None
        values = np.array(tensor["data"], np.float32)
    np.testing.assert_array_equal(values.reshape(tensor["shape"]), logits)
    assert (plain["model_name"], plain["model_version"], plain["id"]) == ("tiny", "1", "7")
    assert plain["parameters"]["subnet"] == "large"
    assert (tensor["name"], tensor["datatype"]) == ("logits", "FP32")


@pytest.mark.parametrize("is_binary", [False, True])
def test_classification_names_the_top_classes(signature: Signature, is_binary: bool):
    """``value:index:label``, best first, as NVIDIA's clients read it; in binary each with its length before it."""
    logits = np.array([[0, 1, 5, 3, 0, 0, 0, 0, 0, 4]], np.float32)
    request = InferRequest(np.zeros((1, 1, 8, 8), np.float32), RequestedOutput(is_binary, classification=3))
    answer = encode_infer(request, _computed(logits), signature)
    (tensor,) = json.loads(answer.body[: answer.json_length])["outputs"]
    texts = ["5.000000:2:digit 2", "4.000000:9:digit 9", "3.000000:3:digit 3"]
    assert (tensor["datatype"], tensor["shape"]) == ("BYTES", [1, 3])
    if is_binary:
        raw = b"".join(len(text).to_bytes(4, "little") + text.encode() for text in texts)
        assert answer.body[answer.json_length :] == raw
    else:
        assert tensor["data"] == texts


def test_logits_that_json_cannot_say_are_refused_and_pass_in_binary(signature: Signature):
    """``NaN`` is no JSON, and readers of other languages stop at it."""
    logits = np.full((1, 10), np.nan, np.float32)
    with pytest.raises(RefusedError, match="ask for binary_data"):
        encode_infer(InferRequest(logits, RequestedOutput()), _computed(logits), signature)
    binary = InferRequest(logits, RequestedOutput(is_binary=True))
    assert encode_infer(binary, _computed(logits), signature).body


@given(text=st.text(max_size=5) | st.just("\ud800"))
def test_any_text_leaves_as_json(text: str):
    """An id may hold half a surrogate pair, which JSON can say and UTF-8 cannot: it must not be a 500."""
    assert json.loads(json_bytes({"id": text})) == {"id": text}
