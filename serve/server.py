"""Listen on an address and serve until told to stop: SIGTERM and Ctrl-C let every accepted request be answered.

Relies on uvicorn for HTTP, with httptools and uvloop where they are installed.
"""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from deps.ground.errors import AddressError
from deps.serve.repository import Repository

# Longest wait for requests under way once the server was told to stop.
DRAIN_S = 30
BACKLOG = 2048


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


class _DrainingServer(uvicorn.Server):
    """Tells when it answers, and turns readiness off the moment a signal arrives, before anything closes."""

    def __init__(self, config: uvicorn.Config, repository: Repository, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._repository = repository
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._repository.begin_drain()
        super().handle_exit(sig, frame)


def run_server(app: Starlette, repository: Repository, bound: socket.socket, announce: Callable[[], None]) -> None:
    """Serve until SIGTERM, which ends this function, or Ctrl-C, which also raises.

    Args:
        app: what ``create_app`` made of the repository.
        repository: told when to drain.
        bound: where to listen.
        announce: called once requests are answered and signals are heeded.

    Raises:
        KeyboardInterrupt: Ctrl-C, after every accepted request was answered.
    """
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=DRAIN_S, server_header=False
    )
    # uvicorn raises the signal again once it is done; a SIGTERM that was obeyed is a success and no reason to die of.
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        _DrainingServer(config, repository, announce).run(sockets=[bound])
    finally:
        signal.signal(signal.SIGTERM, previous)
