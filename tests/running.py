"""A real server in this process, on a port of its own, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from deps.serve.access import Access
from deps.serve.grpc_front import GrpcFront
from deps.serve.http import create_app
from deps.serve.repository import Repository
from deps.serve.server import listen, url_of
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
    server = uvicorn.Server(uvicorn.Config(create_app(repository, **app), log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        with httpx.Client(base_url=url_of(bound), timeout=20) as client:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.005)
            grpc = f"127.0.0.1:{fronts[0].port}" if fronts else ""
            yield Running(url_of(bound), repository, client, grpc)
    finally:
        server.should_exit = True
        thread.join(20)
        bound.close()
    assert not thread.is_alive()
    assert not repository.is_ready
