"""Listen on an address and serve until told to stop: SIGTERM and Ctrl-C let every accepted request be answered.

Relies on ``deps.serve.front`` for HTTP, and on uvloop where it is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from deps.ground.errors import AddressError
from deps.serve.front.acceptor import Acceptor
from deps.serve.front.exchange import App, Message

# Longest wait for requests under way once the server was told to stop.
DRAIN_S = 30

# How long a server that was told to end goes on taking connections, so that others learn of it first.
GRACE_S = 0.5

POLL_S = 0.02
BACKLOG = 2048


class Drainable(Protocol):
    """What can be told that no more requests should come."""

    def begin_drain(self) -> None:
        """Turn readiness off."""
        ...


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server on that host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address; port 0 takes a free one.

    Raises:
        AddressError: the port is taken or forbidden, or the host is not of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise AddressError(
            f"{host!r} port {port} is no address ({error}); expected one of this machine; try --host 127.0.0.1"
        ) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        reason = error.strerror or error
        raise AddressError(
            f"cannot listen on {host} port {port}: {reason}; expected a free address of this machine; try --port 0"
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the address of a bound socket as people type it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


class Stop:
    """What signals ask for: once to end in good order, twice to end at once."""

    def __init__(self, begin_drain: Callable[[], None]) -> None:
        self._begin_drain = begin_drain
        self.asked = asyncio.Event()
        self.signal: int | None = None
        self.is_urgent = False

    def heed(self, number: int) -> None:
        """Take in a signal; readiness is off the moment the first one arrives."""
        self.is_urgent = self.asked.is_set()
        if self.signal is None:
            self.signal = number
            self._begin_drain()
            self.asked.set()

    async def patience(self, seconds: float) -> None:
        """Wait, but not beyond a second signal."""
        end = asyncio.get_running_loop().time() + seconds
        while not self.is_urgent and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(POLL_S)


async def serve(acceptor: Acceptor, bound: socket.socket, stop: Stop, announce: Callable[[], None]) -> None:
    """Answer requests until told to stop, then end in good order.

    Args:
        acceptor: makes the connections, and knows the application.
        bound: where to listen; closed at the end.
        stop: told by whoever may end this.
        announce: called once requests are answered.
    """
    loop = asyncio.get_running_loop()
    async with _lifespan(acceptor.app):
        acceptor.start()
        server = await loop.create_server(acceptor, sock=bound, backlog=BACKLOG)
        try:
            announce()
            await stop.asked.wait()
            # Whoever balances the load sees that this server is not ready before it refuses connections.
            # Answers close their connections from now on, so that none is cut while its next request is on the way.
            acceptor.is_stopping = True
            await stop.patience(GRACE_S if stop.signal == signal.SIGTERM else 0.0)
        finally:
            server.close()
        acceptor.stop()
        give_up = loop.time() + DRAIN_S
        while len(acceptor) and loop.time() < give_up and not stop.is_urgent:
            await asyncio.sleep(POLL_S)
        acceptor.end()


@contextlib.asynccontextmanager
async def _lifespan(app: App) -> AsyncIterator[None]:
    """Start the application, and end it; it may hold threads, files and engines in between.

    Raises:
        Exception: whatever the application failed with.
    """
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()
    task = asyncio.ensure_future(app({"type": "lifespan", "asgi": {"version": "3.0"}}, to_app.get, from_app.put))

    async def ask(kind: str) -> None:
        await to_app.put({"type": f"lifespan.{kind}"})
        told = asyncio.ensure_future(from_app.get())
        await asyncio.wait((told, task), return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            told.cancel()
            await task
        elif told.result()["type"] == f"lifespan.{kind}.failed":
            raise RuntimeError(f"the application failed at its {kind}: {told.result().get('message', '')}")

    await ask("startup")
    try:
        yield
    finally:
        await ask("shutdown")
        await task


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's event loop where it is installed, else Python's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run_server(acceptor: Acceptor, models: Drainable, bound: socket.socket, announce: Callable[[], None]) -> None:
    """Serve until SIGTERM, which ends this function, or Ctrl-C, which also raises.

    Args:
        acceptor: makes the connections, and knows the application.
        models: told when to drain.
        bound: where to listen.
        announce: called once requests are answered and signals are heeded.

    Raises:
        KeyboardInterrupt: Ctrl-C, after every accepted request was answered.
    """
    loop = new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        stop = Stop(models.begin_drain)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.heed, number)
        loop.run_until_complete(serve(acceptor, bound, stop, announce))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    if stop.signal == signal.SIGINT:
        raise KeyboardInterrupt
