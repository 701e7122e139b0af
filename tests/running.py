"""A real server in this process, on a port of its own, for as long as a test needs it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deps.serve.access import Access
from deps.serve.front.acceptor import Acceptor
from deps.serve.front.limits import Limits
from deps.serve.grpc_front import GrpcFront
from deps.serve.http import create_app
from deps.serve.repository import Repository
from deps.serve.server import Drainable, Stop, listen, new_event_loop, serve, url_of
from deps.serve.service import ServeOptions, Service

MAX_BODY_BYTES = 200_000


@dataclass(frozen=True)
class Running:
    """The server, and a client for it."""

    url: str
    repository: Repository
    client: httpx.Client
    grpc: str = ""
    """Address for gRPC clients; empty without one."""

    @property
    def address(self) -> str:
        """Host and port, as NVIDIA's clients take them."""
        return self.url.removeprefix("http://")

    @property
    def service(self) -> Service:
        """What answers for the first model now."""
        loaded = next(iter(self.repository.models.values())).loaded
        assert loaded is not None
        return loaded.service

    @property
    def engine(self) -> Any:
        """The engine of its first subnet."""
        return self.service.subnets[0].engine


@contextlib.contextmanager
def running(
    *bundles: Path, options: ServeOptions, access: Access | None = None, with_grpc: bool = False, **app: Any
) -> Iterator[Running]:
    """Serve some bundles."""
    bound = listen("127.0.0.1", 0)
    repository = Repository.open(bundles, options=options)
    fronts = []
    if with_grpc:
        fronts = [GrpcFront(repository, "127.0.0.1:0", access=access, max_body_bytes=MAX_BODY_BYTES)]
    app = {"access": access, "max_body_bytes": MAX_BODY_BYTES, "beside": fronts, **app}
    gate = create_app(repository, **app)
    acceptor = Acceptor(gate, Limits(max_body_bytes=app["max_body_bytes"]), gate.screen, gate.handler_of)
    with serving(acceptor, bound, repository), httpx.Client(base_url=url_of(bound), timeout=20) as client:
        grpc = f"127.0.0.1:{fronts[0].port}" if fronts else ""
        yield Running(url_of(bound), repository, client, grpc)
    assert not repository.is_ready


@contextlib.contextmanager
def serving(
    acceptor: Acceptor,
    bound: socket.socket,
    models: Drainable,
    make_loop: Callable[[], asyncio.AbstractEventLoop] = new_event_loop,
    *,
    signals: int = 1,
) -> Iterator[None]:
    """Answer requests from a thread of its own while the block runs; a second signal cuts off who is left."""
    loop, stop, is_up = make_loop(), Stop(models.begin_drain), threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(acceptor, bound, stop, is_up.set),))
    thread.start()
    try:
        assert is_up.wait(20)
        yield
    finally:
        for _ in range(signals):
            loop.call_soon_threadsafe(stop.heed, signal.SIGINT)
        thread.join(20)
        loop.close()
        bound.close()
    assert not thread.is_alive()
