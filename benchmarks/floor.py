"""A server that answers at once whatever it is sent: what a request costs here before anything is done for it.

    .venv/bin/python benchmarks/floor.py PORT

Relies on uvloop, as our server does, and on bodies having a length; it knows nothing else of HTTP.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n" + 200 * b"x"
LENGTH = b"content-length:"


class AtOnce(asyncio.Protocol):
    """Counts the bytes of a request, and answers when all are there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with nothing."""
        self._transport = cast(asyncio.Transport, transport)
        self._head, self._missing = b"", 0

    def data_received(self, data: bytes) -> None:
        """Take bytes of a head, or count those of a body."""
        while data:
            if not self._missing:
                head, mark, data = (self._head + data).partition(b"\r\n\r\n")
                if not mark:
                    self._head = head
                    return
                self._head = b""
                at = head.lower().find(LENGTH)
                self._missing = int(head[at + len(LENGTH) :].split(b"\r\n")[0]) if at >= 0 else 0
            taken = min(len(data), self._missing)
            data, self._missing = data[taken:], self._missing - taken
            if not self._missing:
                self._transport.write(ANSWER)


async def serve(port: int) -> None:
    """Answer until the end."""
    server = await asyncio.get_running_loop().create_server(AtOnce, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
