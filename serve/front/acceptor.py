"""All connections of one server: what they share, how many there may be, and who has been too slow.

Relies on one event loop, in whose thread everything here runs.
"""

from __future__ import annotations

import asyncio
import email.utils
import functools
import json
import time

from deps.serve.front.connection import Connection
from deps.serve.front.exchange import STATUS_LINES, App, Handler, HandlerOf, Screen
from deps.serve.front.head import REMEMBERED_HEADS, Head
from deps.serve.front.limits import Limits
from deps.serve.refusals import RefusedError
from deps.serve.staging import SmallPieces

SCRATCH_BYTES = 1 << 15
SWEEP_S = 0.5


def _no_handler(_: Head) -> Handler | None:
    return None


class Acceptor:
    """Makes the connections of a server, and knows them."""

    def __init__(
        self, app: App, limits: Limits, screen: Screen | None = None, handler_of: HandlerOf | None = None
    ) -> None:
        """Begin without connections.

        Args:
            app: answers what has no handler.
            limits: what clients are granted.
            screen: looks at heads whose body is still to come, where there is no handler.
            handler_of: returns what answers requests with a head without a task; asked once for each head that is
                remembered.
        """
        self.app = app
        self.limits = limits
        self.screen = screen
        self.handler_of: HandlerOf = functools.lru_cache(REMEMBERED_HEADS)(handler_of or _no_handler)
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        """Where all connections read what is no body: a read and its use are one step of the loop."""

        self.pieces = SmallPieces()
        """Where the bodies go that are here as soon as their heads are."""

        self.is_stopping = False
        """Whether connections end after the request they are at."""

        self.date = b""
        """The response header of this second."""

        self._connections: set[Connection] = set()
        self.held_bytes = 0
        """Memory of the bodies that arrive or wait for their answer."""

        self._sweep: asyncio.TimerHandle | None = None

    def __call__(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self)

    def __len__(self) -> int:
        return len(self._connections)

    def start(self) -> None:
        """Begin to look after the time, now and every half second."""
        now = time.monotonic()
        self.date = f"date: {email.utils.formatdate(usegmt=True)}\r\n".encode()
        for connection in list(self._connections):
            connection.check_time(now)
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self.start)

    def enter(self, connection: Connection) -> bool:
        """Count a connection in; False when there are too many."""
        self._connections.add(connection)
        return len(self._connections) <= self.limits.max_connections

    def leave(self, connection: Connection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)

    def hold(self, size_bytes: int) -> bool:
        """Count the memory of bodies, more or less of it; False when it would be too much."""
        if size_bytes > 0 and self.held_bytes + size_bytes > self.limits.max_held_bytes:
            return False
        self.held_bytes += size_bytes
        return True

    @property
    def is_busy(self) -> bool:
        """Whether any request is arriving or being answered."""
        return any(connection.is_busy for connection in self._connections)

    def stop(self) -> None:
        """Close what is idle; what is busy closes after its response."""
        self.is_stopping = True
        for connection in list(self._connections):
            connection.stop(at_once=False)

    def end(self) -> None:
        """Cut off whoever is left, and stop looking after the time."""
        for connection in list(self._connections):
            connection.stop(at_once=True)
        if self._sweep is not None:
            self._sweep.cancel()

    def refusal(self, refusal: RefusedError, *, closes: bool) -> bytes:
        """Return a whole response that carries a refusal in the protocol's shape."""
        body = json.dumps({"error": str(refusal)}, ensure_ascii=False).encode("utf-8", "backslashreplace")
        head = [
            STATUS_LINES[refusal.status],
            b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body),
            b"connection: close\r\n" if closes else b"",
            *(b"%b: %b\r\n" % header for header in refusal.headers()),
            self.date,
            b"\r\n",
            body,
        ]
        return b"".join(head)
