"""Answers of the Open Inference Protocol, version 2: from logits to JSON and binary tensors.

Relies on ``signature.py`` for names and labels, and on nothing of the web.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from deps.serve.computed import AnsweredBy, Computed
from deps.serve.engines.base import FloatArray
from deps.serve.protocol import MODEL_VERSION, InferRequest
from deps.serve.signature import Signature
from deps.serve.tensors import refuse

_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """Body of the answer, with the length of its JSON when tensors follow it."""

    body: bytes
    json_length: int | None = None


def encode_infer(request: InferRequest, computed: Computed, signature: Signature) -> InferAnswer:
    """Write the answer to a request.

    Raises:
        RefusedError: the logits are not finite, which JSON cannot say; 400, since binary output can.
    """
    logits_NV, classes = computed.logits, request.output.classification
    datatype, shape = ("BYTES", (len(logits_NV), classes)) if classes else (signature.output.datatype, logits_NV.shape)
    top = classification(logits_NV, classes, signature.labels) if classes else []
    if request.output.is_binary:
        raw = bytes_tensor(top) if classes else logits_NV.astype(signature.output.dtype, copy=False).tobytes()
        text = _json_before(signature, request.id, computed.by, datatype, shape, len(raw))
        return InferAnswer(text + raw, len(text))
    if not classes and not np.isfinite(logits_NV).all():
        refuse("the logits are not finite, which JSON cannot say; expected finite images; or ask for binary_data")
    data = top if classes else logits_NV.ravel().tolist()
    return InferAnswer(json_bytes(_answer(signature, request.id, computed.by, datatype, shape, {"data": data})))


@functools.lru_cache(maxsize=_REMEMBERED)
def _json_before(
    signature: Signature, name: str | None, by: AnsweredBy, datatype: str, shape: tuple[int, ...], raw_bytes: int
) -> bytes:
    """Return the JSON of an answer whose tensor follows in bytes; from one client it is the same again and again."""
    return json_bytes(_answer(signature, name, by, datatype, shape, {"parameters": {"binary_data_size": raw_bytes}}))


def _answer(
    signature: Signature,
    name: str | None,
    by: AnsweredBy,
    datatype: str,
    shape: tuple[int, ...],
    values: dict[str, Any],
) -> dict[str, Any]:
    """Return an answer: ``values`` is the tensor, or where it is."""
    tensor = {"name": signature.output.name, "datatype": datatype, "shape": shape, **values}
    answer: dict[str, Any] = {"model_name": signature.name, "model_version": MODEL_VERSION}
    if name is not None:
        answer["id"] = name
    return answer | {"parameters": by.parameters(), "outputs": [tensor]}


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON in UTF-8; half a surrogate pair, which JSON can say and UTF-8 cannot, stays an escape."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def bytes_tensor(texts: list[str]) -> bytes:
    """Return a BYTES tensor in its binary form: each element after its length, four bytes, little-endian."""
    encoded = [text.encode() for text in texts]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)


def classification(logits_NV: FloatArray, count: int, labels: tuple[str, ...]) -> list[str]:
    """Return ``value:index:label`` of the top classes of each image, best first."""
    order_NK = np.argsort(-logits_NV, axis=1, kind="stable")[:, :count]
    return [
        f"{row[index]:f}:{index}:{labels[index]}"
        for row, best in zip(logits_NV, order_NK, strict=True)
        for index in best
    ]
