"""Answers of the Open Inference Protocol, version 2: from logits to JSON and binary tensors.

Relies on ``signature.py`` for names and labels, and on nothing of the web.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from deps.serve.computed import Computed
from deps.serve.engines.base import FloatArray
from deps.serve.protocol import MODEL_VERSION, InferRequest
from deps.serve.signature import Signature
from deps.serve.tensors import refuse


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
    logits_NV = computed.logits
    tensor: dict[str, Any] = {"name": signature.output.name}
    raw = b""
    if request.output.classification:
        top = classification(logits_NV, request.output.classification, signature.labels)
        tensor |= {"datatype": "BYTES", "shape": [len(logits_NV), request.output.classification]}
        if request.output.is_binary:
            raw = bytes_tensor(top)
        else:
            tensor["data"] = top
    else:
        tensor |= {"datatype": signature.output.datatype, "shape": list(logits_NV.shape)}
        if request.output.is_binary:
            raw = logits_NV.astype(signature.output.dtype, copy=False).tobytes()
        elif not np.isfinite(logits_NV).all():
            refuse("the logits are not finite, which JSON cannot say; expected finite images; or ask for binary_data")
        else:
            tensor["data"] = logits_NV.ravel().tolist()
    if request.output.is_binary:
        tensor["parameters"] = {"binary_data_size": len(raw)}
    answer = {"model_name": signature.name, "model_version": MODEL_VERSION}
    if request.id is not None:
        answer["id"] = request.id
    text = json_bytes(answer | {"parameters": computed.by.parameters(), "outputs": [tensor]})
    return InferAnswer(text + raw, len(text) if request.output.is_binary else None)


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
