"""Inference over HTTP: a body becomes images, and logits become an answer; the way that carries the load.

Relies on ASGI alone, with nothing between it and the server: a router and objects for headers would cost more than what
is done here. Everything rare is in ``http.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs

from deps.serve.answers import InferAnswer, encode_infer
from deps.serve.body import accepted_encoding, announced_encoding, compress, read_body
from deps.serve.front.exchange import ARRIVAL, EXCHANGE, Exchange
from deps.serve.models import Asking, Loaded, Served
from deps.serve.pictures import Pictures
from deps.serve.protocol import HEADER_LENGTH, MODEL_VERSION, TIMEOUT_HEADER, parse_infer, parse_timeout_header
from deps.serve.ranking import top_classes
from deps.serve.refusals import ClientGoneError, RefusedError
from deps.serve.replies import JSON_TYPE, Headers, Receive, Reply, Scope, Send, json_reply, reply_to
from deps.serve.repository import Repository

T = TypeVar("T")
Buffer = bytes | memoryview

PICTURE_TYPES = ("image/jpeg", "image/png")
DEFAULT_TOP = 5

# Above this, parsing takes long enough that other requests should not wait for it.
PARSE_ASIDE_BYTES = 1 << 16

_BINARY_TYPE = (b"content-type", b"application/octet-stream")
_LENGTH_KEY = HEADER_LENGTH.lower().encode()
_TIMEOUT_KEY = TIMEOUT_HEADER.lower().encode()


class Target(NamedTuple):
    """What an address asks for."""

    name: str
    version: str | None
    verb: str
    """``infer`` or ``classify``."""


def target_of(path: str) -> Target | None:
    """Return what ``/v2/models/NAME[/versions/V]/infer`` or ``…/classify`` asks for; None for any other address."""
    parts = path.removesuffix("/").split("/")
    if len(parts) not in (5, 7) or parts[:3] != ["", "v2", "models"] or parts[-1] not in ("infer", "classify"):
        return None
    if len(parts) == 5:
        return Target(parts[3], None, parts[4])
    return Target(parts[3], parts[5], parts[6]) if parts[4] == "versions" else None


class Terms(NamedTuple):
    """What the head of a request says of how to read and to answer it."""

    timeout_s: float
    """How long after its arrival the answer is of use."""

    header_length: str | None
    """The length of the JSON before a tensor, as it was sent."""

    encoding: str | None
    """How the body is compressed."""

    accepts: str | None
    """How the answer may be compressed, as it was sent."""

    @classmethod
    def of(cls, target: Target, headers: Mapping[bytes, bytes], max_body_bytes: int) -> Terms:
        """Read the headers of a request, names in lower case.

        Raises:
            RefusedError: a malformed header (400), no picture where one is expected or an unknown compression (415), or
                a body over the limit (413).
        """
        timeout_s = parse_timeout_header(_text(headers.get(_TIMEOUT_KEY)))
        if target.verb == "classify":
            _check_picture_type(_text(headers.get(b"content-type")) or "")
        encoding = announced_encoding(headers, max_body_bytes)
        length, accepts = _text(headers.get(_LENGTH_KEY)), _text(headers.get(b"accept-encoding"))
        return cls(timeout_s, length, encoding, accepts)


class Inference:
    """Answers requests for inference."""

    def __init__(self, repository: Repository, max_body_bytes: int) -> None:
        self._repository = repository
        self.max_body_bytes = max_body_bytes
        """Limit for a request's body, also after decompression."""

        self._pictures = Pictures()

    def close(self) -> None:
        """Give back the threads that decode pictures."""
        self._pictures.close()

    async def __call__(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong is told in the protocol's shape."""
        answer = self._infer if target.verb == "infer" else self._classify
        try:
            served = self.find(target)
            arrived = scope.get(ARRIVAL) or time.monotonic()
            with served.asking(arrived) as asking, served.lease() as loaded:
                terms = Terms.of(target, dict(scope["headers"]), self.max_body_bytes)
                reply = await answer(served, loaded, asking, terms, scope, receive)
        except Exception as error:
            reply = reply_to(error)
            await reply(scope, receive, send)
            if reply.status == 500:
                raise  # the server writes it to its log
            return
        await reply(scope, receive, send)

    def screen(self, target: Target, headers: Iterable[tuple[bytes, bytes]] | None) -> None:
        """Let the body of a request come; a refusal is counted as that of a whole request is.

        Args:
            target: what is asked.
            headers: of the request, names in lower case; None when they are known to be in order.

        Raises:
            RefusedError: no such model or version (404), none that is loaded (503), or what ``Terms`` refuse.
        """
        served = self.find(target)
        with served.asking(time.monotonic()):
            served.lease()
            if headers is not None:
                Terms.of(target, dict(headers), self.max_body_bytes)

    def find(self, target: Target) -> Served:
        """Return what is asked.

        Raises:
            RefusedError: no such model or version; 404.
        """
        return self._repository.find(target.name, target.version)

    async def _infer(
        self, served: Served, loaded: Loaded, asking: Asking, terms: Terms, scope: Scope, receive: Receive
    ) -> Reply:
        body = await read_body(receive, dict(scope["headers"]), self.max_body_bytes)
        computing = _compute(served, loaded, asking, body, terms)
        answer = await _unless_gone(scope, receive, computing)
        said, content = infer_headers(answer), answer.body
        encoding = accepted_encoding(terms.accepts, len(content))
        if encoding is not None:
            content = await asyncio.to_thread(compress, content, encoding)
            said = (*said, (b"content-encoding", encoding.encode()), (b"vary", b"Accept-Encoding"))
        return Reply(200, content, said)

    async def _classify(
        self, served: Served, loaded: Loaded, asking: Asking, terms: Terms, scope: Scope, receive: Receive
    ) -> Reply:
        count = _count_of_classes(scope["query_string"], loaded.service.manifest.output.classes)
        body = await read_body(receive, dict(scope["headers"]), self.max_body_bytes)
        naming = self._name_classes(served, loaded, asking, body, count, terms.timeout_s)
        return await _unless_gone(scope, receive, naming)

    async def _name_classes(
        self, served: Served, loaded: Loaded, asking: Asking, content: Buffer, count: int, timeout_s: float
    ) -> Reply:
        manifest = loaded.service.manifest
        image_CHW = await self._pictures.decode(content, manifest.input, until=asking.arrived + timeout_s)
        computed = await loaded.service.infer(image_CHW[None], arrival=asking.arrived, timeout_s=timeout_s)
        asking.answered(1, computed)
        # Browsers read this header and show it among their own timings.
        timing = f"queue;dur={1e3 * computed.queue_s:.3f}, engine;dur={1e3 * computed.compute_s:.3f}"
        answer = {
            "model_name": served.name,
            "model_version": MODEL_VERSION,
            "parameters": computed.by.parameters(),
            "classes": [entry.to_dict() for entry in top_classes(computed.logits[0], manifest.labels, count)],
        }
        return json_reply(answer, headers=((b"server-timing", timing.encode()),))


def infer_headers(answer: InferAnswer) -> Headers:
    """Return what the head of an answer says of its body, but for its length."""
    if answer.json_length is None:
        return (JSON_TYPE,)
    return (_BINARY_TYPE, (_LENGTH_KEY, str(answer.json_length).encode()))


async def _compute(served: Served, loaded: Loaded, asking: Asking, body: Buffer, terms: Terms) -> InferAnswer:
    signature = loaded.signatures[served.takes_raw]
    if len(body) > PARSE_ASIDE_BYTES and terms.header_length is None:
        asked = await asyncio.to_thread(parse_infer, body, None, signature)
    else:
        asked = parse_infer(body, terms.header_length, signature)
    computed = await loaded.service.infer(
        asked.images, arrival=asking.arrived, timeout_s=min(terms.timeout_s, asked.timeout_s), subnet=asked.subnet
    )
    answer = encode_infer(asked, computed, signature)
    asking.answered(len(asked.images), computed)
    return answer


async def _unless_gone(scope: Scope, receive: Receive, answering: Coroutine[Any, Any, T]) -> T:
    """Return the answer, unless the client hangs up first: then the work is cancelled, and costs nothing if not begun.

    Raises:
        ClientGoneError: the client is gone.
    """
    exchange = scope.get(EXCHANGE)
    if isinstance(exchange, Exchange):  # our own server cancels this task, which costs nothing until it does
        with exchange.cancelled_when_gone():
            return await answering
    answer = asyncio.ensure_future(answering)
    # The body was read to its end, so the next message can only be that the client is gone.
    gone = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        raise ClientGoneError
    finally:
        gone.cancel()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _check_picture_type(content_type: str) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in PICTURE_TYPES:
        shown = kind or "missing"
        raise RefusedError(f"Content-Type is {shown}; expected {' or '.join(PICTURE_TYPES)}; convert it", status=415)


def _count_of_classes(query: bytes, classes: int) -> int:
    top = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("top", [str(DEFAULT_TOP)])[-1]
    if not (top.isascii() and top.isdigit()) or not 1 <= len(top) <= 6 or int(top) < 1:
        raise RefusedError(f"top is {top[:20]!r}; expected a whole number from 1 to {classes}, as in ?top=3")
    return min(int(top), classes)
