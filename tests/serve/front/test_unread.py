"""The server against clients that take their answers slowly, or never, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from deps.serve.front.acceptor import Acceptor
from deps.serve.front.limits import Limits
from deps.serve.server import listen
from running import serving

LIMITS = Limits(max_body_bytes=200_000, head_s=5.0, idle_s=5.0, write_s=1.5, linger_s=0.3)
ANSWER = bytes(3_000_000)
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Long:
    """An application that answers at length, more than the system holds for a client, and counts."""

    def __init__(self) -> None:
        self.answered = 0

    def begin_drain(self) -> None:
        """Nothing is ready or not here."""

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            for answer in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{answer}"
                await send({"type": f"lifespan.{answer}.complete"})
            return
        told = b"%d" % len((await receive())["body"]) if scope["path"] == "/short" else ANSWER
        self.answered += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": told})


@dataclass(frozen=True)
class Running:
    port: int
    app: Long
    acceptor: Acceptor

    def client(self, *, holds_bytes: int = 4096) -> socket.socket:
        """Return a connection whose own system holds little of what comes."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, holds_bytes)
        client.settimeout(10)
        client.connect(("127.0.0.1", self.port))
        return client


@pytest.fixture
def server() -> Iterator[Running]:
    app, bound = Long(), listen("127.0.0.1", 0)
    acceptor = Acceptor(app, LIMITS)
    with serving(acceptor, bound, app, signals=2):
        yield Running(bound.getsockname()[1], app, acceptor)


def _wait(condition, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()


def test_client_that_never_reads_gets_no_further_answers_and_is_thrown_out(server: Running):
    """Else every request that it sends ahead would be answered into the server's memory, without an end."""
    with server.client() as client:
        client.sendall(REQUEST * 50)
        _wait(lambda: server.app.answered)
        _wait(lambda: not len(server.acceptor), 4 * LIMITS.write_s)
    assert server.app.answered == 1


def test_what_a_client_sends_ahead_is_bounded(server: Running):
    """Else somebody who sends faster than is answered fills the memory, and every request copies all of it."""
    sent = 0
    with server.client() as client:
        client.settimeout(0.5)
        try:
            while sent < 50_000_000:
                sent += client.send(REQUEST * 1000)
        except TimeoutError:
            pass
        (connection,) = server.acceptor._connections
        assert len(connection._ahead) < 200_000
    assert sent < 50_000_000  # what the two systems hold between them


def test_pipelined_requests_go_on_once_the_client_reads(server: Running):
    """Whoever catches up gets every answer, with bodies longer than what may be sent ahead among the requests."""
    short = b"POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    sent = (REQUEST + short % 150_000 + bytes(150_000) + short % 3 + b"abc") * 3
    sent += b"GET /short HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with server.client(holds_bytes=100_000) as client:
        client.sendall(sent[:100_000])
        _wait(lambda: server.app.answered)
        time.sleep(0.2)
        came, rest = b"", memoryview(sent)[100_000:]
        client.settimeout(0.05)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            if rest:
                with contextlib.suppress(TimeoutError):
                    rest = rest[client.send(rest) :]
            try:
                piece = client.recv(1 << 20)
            except TimeoutError:
                continue
            if not piece:
                break
            came += piece
    assert came.count(b"HTTP/1.1 200 OK") == 10
    assert came.count(b"\r\n\r\n150000HTTP") == 3
    assert came.endswith(b"\r\n\r\n0")


def test_last_answer_of_a_connection_may_be_taken_slowly(server: Running):
    """That nothing more will be read is no reason to cut off what is still being sent."""
    with server.client() as client:
        client.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        _wait(lambda: server.app.answered)
        time.sleep(LIMITS.linger_s + 0.7)  # the server looks at its clock every half second
        came = b""
        while piece := client.recv(1 << 20):
            came += piece
    assert len(came) > len(ANSWER)
