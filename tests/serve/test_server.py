"""Where the server listens: loopback is told from the rest, and an address that cannot be had is said plainly."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading

import pytest

from deps.ground.errors import AddressError
from deps.serve.front.acceptor import Acceptor
from deps.serve.front.limits import Limits
from deps.serve.server import Stop, is_loopback, listen, serve, url_of


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("example.org", False),
    ],
)
def test_loopback_is_told_from_the_rest(host: str, expected: bool):
    """Everything else gets a warning, so nothing else may count as loopback."""
    assert is_loopback(host) is expected


def test_port_zero_is_a_real_port():
    """The address that is printed must be one that can be opened."""
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert url_of(bound) == f"http://127.0.0.1:{port}"
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_taken_port_is_named():
    """The commonest failure at a start."""
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(AddressError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "a" * 300])
def test_foreign_host_is_refused(host: str):
    """An address of another machine, and names that are none."""
    with pytest.raises(AddressError, match="expected"):
        listen(host, 0)


async def _empty_answers(scope, receive, send) -> None:
    """An application that has nothing to say."""
    if scope["type"] == "lifespan":
        for moment in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{moment}"
            await send({"type": f"lifespan.{moment}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_answers_close_their_connections_once_a_stop_was_asked_for(monkeypatch: pytest.MonkeyPatch):
    """Otherwise the end cuts connections on which a client has just sent its next request, and that request is lost."""
    monkeypatch.setattr("deps.serve.server.GRACE_S", 2.0)
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    bound, loop, is_up = listen("127.0.0.1", 0), asyncio.new_event_loop(), threading.Event()
    stop, is_told = Stop(lambda: None), threading.Event()
    acceptor = Acceptor(_empty_answers, Limits())
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(acceptor, bound, stop, is_up.set),))
    thread.start()
    assert is_up.wait(20)
    try:
        with socket.create_connection(bound.getsockname(), timeout=10) as client:
            client.sendall(request)
            assert b"connection: close" not in client.recv(1000)
            loop.call_soon_threadsafe(stop.heed, signal.SIGTERM)
            loop.call_soon_threadsafe(loop.call_soon, is_told.set)
            assert is_told.wait(10)
            client.sendall(request)
            assert b"connection: close" in client.recv(1000)
            assert client.recv(1000) == b""
        with socket.create_connection(bound.getsockname(), timeout=10) as late:
            late.sendall(request)
            assert b"200 OK" in late.recv(1000)
    finally:
        for _ in range(2):
            loop.call_soon_threadsafe(stop.heed, signal.SIGTERM)
        thread.join(20)
        loop.close()
        bound.close()
    assert not thread.is_alive()
