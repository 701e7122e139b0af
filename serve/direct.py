"""Inference without a task: what carries the load, when our own server reads it.

Relies on ``inference.py`` for the same steps inside a task, and says the same in the same bytes; a test holds the two
against each other. Whatever takes a moment of its own, such as compressed bodies, is left to the task.
"""

from __future__ import annotations

from deps.serve.answers import encode_infer
from deps.serve.body import COMPRESS_FROM_BYTES, accepted_encoding
from deps.serve.front.exchange import Exchange
from deps.serve.front.head import Head
from deps.serve.inference import PARSE_ASIDE_BYTES, Buffer, Inference, Target, Terms, infer_headers
from deps.serve.jobs import Job
from deps.serve.models import Loaded, Served
from deps.serve.protocol import InferRequest, parse_infer
from deps.serve.refusals import ClientGoneError, RefusedError
from deps.serve.replies import Reply, reply_to
from deps.serve.signature import Signature


def direct_handler(inference: Inference, target: Target, head: Head) -> DirectHandler | None:
    """Return what answers requests with a head, or None when they need a task.

    Args:
        inference: finds the model.
        target: what the head's address asks for.
        head: of requests that may pass.
    """
    if target.verb != "infer" or head.is_chunked:
        return None
    try:
        terms = Terms.of(target, dict(head.headers), inference.max_body_bytes)
    except RefusedError:
        return None
    is_long_json = terms.header_length is None and head.length > PARSE_ASIDE_BYTES
    if is_long_json or terms.encoding or accepted_encoding(terms.accepts, COMPRESS_FROM_BYTES):
        return None
    return DirectHandler(inference, target, terms)


class DirectHandler:
    """Answers inference requests that share one head; a client sends the same again and again."""

    __slots__ = ("_inference", "_target", "_terms")

    def __init__(self, inference: Inference, target: Target, terms: Terms) -> None:
        self._inference = inference
        self._target = target
        self._terms = terms

    def screen(self) -> None:
        """Let the body of a request come.

        Raises:
            RefusedError: there is no such model (404), or it is not loaded (503).
        """
        self._inference.screen(self._target, None)

    def begin(self, exchange: Exchange, body: Buffer, arrival: float) -> None:
        """Take a whole request and see to its answer."""
        try:
            served = self._inference.find(self._target)
        except RefusedError as refusal:
            exchange.respond(*reply_to(refusal).parts())
            return
        _DirectRequest(exchange, served, arrival).start(body, self._terms)


class _DirectRequest:
    """One request under way."""

    __slots__ = ("_asked", "_asking", "_exchange", "_job", "_loaded", "_served")

    _asked: InferRequest
    _loaded: Loaded

    def __init__(self, exchange: Exchange, served: Served, arrival: float) -> None:
        self._exchange = exchange
        self._served = served
        self._asking = served.asking(arrival)
        self._job: Job | None = None

    @property
    def _signature(self) -> Signature:
        return self._loaded.signatures[self._served.takes_raw]

    def start(self, body: Buffer, terms: Terms) -> None:
        """Understand the request and queue it."""
        try:
            self._loaded = self._served.lease()
            asked = self._asked = parse_infer(body, terms.header_length, self._signature)
            self._job = self._loaded.service.submit(
                asked.images,
                self._settle,
                arrival=self._asking.arrived,
                timeout_s=min(terms.timeout_s, asked.timeout_s),
                subnet=asked.subnet,
            )
        except Exception as error:  # whatever went wrong, the client is told
            self._fail(error)
            return
        self._loaded.hold()
        self._exchange.on_gone = self._drop

    def _settle(self, job: Job) -> None:
        """Answer: the request's job has an outcome."""
        try:
            computed = self._loaded.service.computed(job)
            answer = encode_infer(self._asked, computed, self._signature)
            self._asking.answered(len(self._asked.images), computed)
        except Exception as error:  # whatever went wrong, the client is told
            self._loaded.release()
            self._fail(error)
            return
        self._loaded.release()
        self._exchange.respond(*Reply(200, answer.body, infer_headers(answer)).parts())

    def _fail(self, error: Exception) -> None:
        self._asking.ended(error)
        reply = reply_to(error)
        if reply.status == 500:
            self._exchange.log_failure(error)
        self._exchange.respond(*reply.parts())

    def _drop(self) -> None:
        """Forget the request: its client is gone."""
        assert self._job is not None
        self._loaded.service.cancel(self._job)
        self._loaded.release()
        self._asking.ended(ClientGoneError())
