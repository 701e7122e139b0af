"""One request and its response, as ASGI sees them.

Relies on the whole body having arrived: it is handed over in one message, as a view of the memory it was read into. The
response is written in one piece where it can be.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from deps.serve.front.head import Head
from deps.serve.refusals import ClientGoneError, RefusedError

if TYPE_CHECKING:
    from deps.serve.front.connection import Connection

Message = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


class Handler(Protocol):
    """Answers the requests that share one head, without a task for each."""

    def screen(self) -> None:
        """Let the body of a request come.

        Raises:
            RefusedError: it need not.
        """
        ...

    def begin(self, exchange: Exchange, body: memoryview | bytes, arrival: float) -> None:
        """Take a whole request; ``exchange.respond`` is called once, now or later, and nothing is raised.

        Args:
            exchange: takes the answer; its ``on_gone`` may be set.
            body: as it was sent.
            arrival: moment of the request's first byte, by ``time.monotonic``.
        """
        ...


HandlerOf = Callable[[Head], "Handler | None"]
"""Returns what answers requests with a head; None leaves them to the ASGI application."""

Screen = Callable[[MutableMapping[str, Any]], None]
"""Looks at a request of which only the head is there, and raises ``RefusedError`` when its body need not come."""

ARRIVAL = "deps.arrival"
"""Key of the scope: the moment of the request's first byte, by ``time.monotonic``."""

EXCHANGE = "deps.exchange"
"""Key of the scope: the ``Exchange`` itself."""

_LOG = logging.getLogger("deps.serve")
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}
_REMEMBERED = 64
_WITHOUT_BODY = frozenset((*range(100, 200), 204, 304))


class Exchange:
    """Runs the application for one request and writes what it answers."""

    __slots__ = (
        "_body",
        "_cancels_when_gone",
        "_connection",
        "_gone",
        "_has_begun",
        "_head",
        "_headers",
        "_is_bodiless",
        "_is_chunked",
        "_status",
        "_task",
        "_was_read",
        "is_complete",
        "keeps_alive",
        "on_gone",
    )

    def __init__(self, connection: Connection, head: Head, body: memoryview | bytes) -> None:
        self._connection = connection
        self._head = head
        self._body = body
        self._was_read = False
        self._status = 0
        self._headers: Iterable[tuple[bytes, bytes]] = ()
        self._has_begun = False
        self._is_chunked = False
        self._is_bodiless = head.method == "HEAD"
        self._task: asyncio.Task[None] | None = None
        self.keeps_alive = head.keeps_alive
        self.is_complete = False
        self._gone: asyncio.Event | None = None
        self._cancels_when_gone = False
        self.on_gone: Callable[[], None] | None = None
        """Called when the client hangs up, or the server ends, before the response."""

    def start(self, app: App, scope: dict[str, Any]) -> None:
        """Run the application in a task of its own."""
        self._task = asyncio.get_running_loop().create_task(self._run(app, scope))

    @contextlib.contextmanager
    def cancelled_when_gone(self) -> Iterator[None]:
        """Let the task that runs the block be cancelled when the client hangs up; to wait for both would cost more.

        Raises:
            ClientGoneError: the client hung up.
        """
        if self._connection.is_lost:
            raise ClientGoneError
        self._cancels_when_gone = True
        try:
            yield
        except asyncio.CancelledError:
            if self._connection.is_lost:
                raise ClientGoneError from None
            raise
        finally:
            self._cancels_when_gone = False

    def hang_up(self) -> None:
        """Tell the application that the client is gone."""
        if self._gone is not None:
            self._gone.set()
        if self._cancels_when_gone and self._task is not None:
            self._task.cancel()
        self._tell_gone()

    def cancel(self) -> None:
        """Stop the application: the server ends."""
        if self._task is not None:
            self._task.cancel()
        self._tell_gone()

    def _tell_gone(self) -> None:
        told, self.on_gone = self.on_gone, None
        if told is not None:
            told()

    def respond(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer in one piece, and let the connection go on: what a ``Handler`` does in place of ASGI's messages."""
        self._status, self._headers, self.on_gone = status, headers, None
        self._has_begun = self.is_complete = True
        self._connection.write(self._first(body, more=False))
        self._connection.finish(self)

    async def _run(self, app: App, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._connection.abort()
            raise
        except Exception as error:
            self.log_failure(error)
        finally:
            self._body = b""
            self._task = None
        if not self.is_complete:
            if self._has_begun:
                self._connection.abort()
                return
            failure = RefusedError("the server met an error of its own; see its log", status=500)
            self._connection.answer_with(failure, closes=True)
        self._connection.finish(self)

    def log_failure(self, error: Exception) -> None:
        """Write an error of ours to the server's log."""
        _LOG.error("an error of the application at %s %s", self._head.method, self._head.plain_path(), exc_info=error)

    async def receive(self) -> Message:
        """Give the body, and then wait for the client to hang up."""
        if not self._was_read:
            self._was_read = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        if not self.is_complete and not self._connection.is_lost:
            if self._gone is None:
                self._gone = asyncio.Event()
            await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take the response, part by part."""
        kind = message["type"]
        if kind == "http.response.start":
            assert not self._status, "the response was started twice"
            self._status, self._headers = message["status"], list(message.get("headers", ()))
            return
        assert kind == "http.response.body", kind
        assert self._status, "the response was not started"
        assert not self.is_complete, "the response is complete already"
        body, more = message.get("body", b""), message.get("more_body", False)
        if not self._has_begun:
            self._has_begun = True
            self._connection.write(self._first(body, more=more))
        elif not self._is_bodiless:
            self._connection.write(self._chunk(body))
        if not more:
            if self._is_chunked and not self._is_bodiless:
                self._connection.write(b"0\r\n\r\n")
            self.is_complete = True
        elif self._connection.is_full:
            await self._connection.drained()

    def _first(self, body: bytes, *, more: bool) -> bytes:
        """Return the head of the response, with as much of its body as is there."""
        lines, has_length, says_close = _lines(self._status, tuple(self._headers))
        parts = [lines]
        if says_close or self._connection.is_stopping:
            self.keeps_alive = False
        if self._status in _WITHOUT_BODY:
            self._is_bodiless = True
        elif not has_length and not more:
            parts += (b"content-length: ", str(len(body)).encode(), b"\r\n")
        elif not has_length:
            self._is_chunked = self._head.version == "1.1"
            if self._is_chunked:
                parts.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keeps_alive = False
        if not self.keeps_alive:
            parts.append(b"connection: close\r\n")
        elif self._head.version == "1.0":
            parts.append(b"connection: keep-alive\r\n")
        parts += (self._connection.date, b"\r\n")
        if not self._is_bodiless:
            parts.append(self._chunk(body))
        return b"".join(parts)

    def _chunk(self, body: bytes) -> bytes:
        if not self._is_chunked or not body:
            return body
        return b"%x\r\n%b\r\n" % (len(body), body)


class _Lines(NamedTuple):
    """What an application says in a response's head, as it is sent."""

    content: bytes
    has_length: bool
    says_close: bool


@functools.lru_cache(maxsize=_REMEMBERED)
def _lines(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> _Lines:
    parts = [STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n".encode()]
    has_length, says_close = False, False
    for name, value in headers:
        lower = name.lower()
        if lower == b"content-length":
            has_length = True
        elif lower == b"connection":
            says_close = says_close or b"close" in value.lower()
            continue
        elif lower == b"transfer-encoding":
            continue
        if b"\n" in value or b"\r" in value or b"\n" in name or b"\r" in name or b":" in name:
            raise ValueError(f"the response's header {name!r} would split the response")
        parts += (name, b": ", value, b"\r\n")
    return _Lines(b"".join(parts), has_length, says_close)
