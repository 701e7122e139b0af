"""A server that answers at once whatever it is sent: what a request costs here before anything is done for it.

    .venv/bin/python benchmarks/floor.py PORT

Relies on uvloop, as our server does, and on bodies having a length; it reads into one buffer, over and over, and knows
nothing else of HTTP.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n" + 200 * b"x"
LENGTH = b"content-length:"
BUFFER_BYTES = 1 << 20


class AtOnce(asyncio.BufferedProtocol):
    """Counts the bytes of a request, and answers when all are there."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._head, self._missing = b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the one buffer: nobody keeps what was in it."""
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes of a head, or count those of a body."""
        at = 0
        while at < nbytes:
            if not self._missing:
                head, mark, _ = (known := self._head + bytes(self._buffer[at:nbytes])).partition(b"\r\n\r\n")
                if not mark:
                    self._head = known
                    return
                at += len(head) + len(mark) - len(self._head)
                self._head = b""
                place = head.lower().find(LENGTH)
                self._missing = int(head[place + len(LENGTH) :].split(b"\r\n")[0]) if place >= 0 else 0
            taken = min(nbytes - at, self._missing)
            at, self._missing = at + taken, self._missing - taken
            if not self._missing:
                self._transport.write(ANSWER)


async def serve(port: int) -> None:
    """Answer until the end."""
    server = await asyncio.get_running_loop().create_server(AtOnce, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
