"""Answers as ASGI sends them, and what each error becomes: always ``{"error": "…"}`` and a status.

Relies on nothing but ASGI's two messages; a ``Reply`` is an ASGI application that always answers the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

from deps.ground.errors import DepsError
from deps.serve.answers import json_bytes
from deps.serve.refusals import ClientGoneError, RefusedError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON_TYPE = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")

# What nginx logs for a client that hung up; nobody receives it.
CLIENT_CLOSED_REQUEST = 499


class Reply(NamedTuple):
    """One answer, whole."""

    status: int
    body: bytes = b""
    headers: Headers = ()

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        """Send it."""
        status, headers, body = self.parts()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def parts(self) -> tuple[int, Headers, bytes]:
        """Return the status, all headers, and the body."""
        return self.status, ((b"content-length", str(len(self.body)).encode()), *self.headers), self.body


def json_reply(value: Any, status: int = 200, headers: Headers = ()) -> Reply:
    """Return a value as an answer in JSON."""
    return Reply(status, json_bytes(value), (JSON_TYPE, *headers))


def error_reply(message: str, status: int, headers: Headers = ()) -> Reply:
    """Return an error in the protocol's shape."""
    return json_reply({"error": message}, status, headers)


def reply_to(error: Exception) -> Reply:
    """Return what a client is told of an error."""
    if isinstance(error, RefusedError):
        return error_reply(str(error), error.status, tuple(error.headers()))
    if isinstance(error, ClientGoneError):
        return Reply(CLIENT_CLOSED_REQUEST)
    if isinstance(error, DepsError):
        return error_reply(str(error), 500)
    # Nothing of the machine's inside goes out, and the connection is not used again after a bug.
    message = f"the server met an error of its own ({type(error).__name__}); see its log"
    return error_reply(message, 500, (CLOSE,))
