"""The server against clients that are slow, wrong, greedy or gone, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from deps.serve.front.acceptor import Acceptor
from deps.serve.front.exchange import EXCHANGE
from deps.serve.front.limits import Limits
from deps.serve.refusals import ClientGoneError, RefusedError
from deps.serve.server import listen, new_event_loop
from running import serving

LIMITS = Limits(
    max_body_bytes=100_000,
    max_head_bytes=2000,
    max_held_bytes=150_000,
    max_connections=8,
    head_s=0.4,
    idle_s=0.6,
    body_s=0.4,
    body_rate=1 << 20,
    linger_s=0.5,
)


@dataclass
class Echo:
    """An application that answers with what it was asked, and remembers who hung up."""

    gone: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: threading.Event = field(default_factory=threading.Event)

    def begin_drain(self) -> None:
        """Nothing is ready or not here."""

    def screen(self, scope) -> None:
        if scope["path"] == "/nowhere":
            raise RefusedError("there is nothing; expected something", status=404)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            for answer in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{answer}"
                await send({"type": f"lifespan.{answer}.complete"})
            return
        body = bytes((await receive())["body"])
        path = scope["path"]
        if path == "/wait":
            self.waiting.set()
            waiting = asyncio.ensure_future(self.release.wait())
            gone = asyncio.ensure_future(receive())
            await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                self.gone.append(gone.result()["type"])
            waiting.cancel()
            gone.cancel()
        elif path == "/cancel":
            try:
                with scope[EXCHANGE].cancelled_when_gone():
                    self.waiting.set()
                    await asyncio.sleep(20)
            except ClientGoneError:
                self.cancelled.append(path)
        elif path == "/broken":
            raise ZeroDivisionError
        elif path == "/split":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nb: c")]})
        elif path == "/half":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
            await send({"type": "http.response.body", "body": b"12345", "more_body": True})
            raise ZeroDivisionError
        elif path == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for piece in (b"ab", b"", b"cde"):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        told = json.dumps([scope["method"], path, len(body), body[:8].decode("latin-1")]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", b"text/x")]})
        await send({"type": "http.response.body", "body": told})


@dataclass(frozen=True)
class Running:
    port: int
    echo: Echo
    acceptor: Acceptor


@contextlib.contextmanager
def running_server(make_loop: Callable[[], asyncio.AbstractEventLoop] = new_event_loop) -> Iterator[Running]:
    echo, bound = Echo(), listen("127.0.0.1", 0)
    acceptor = Acceptor(echo, LIMITS, echo.screen)
    port = bound.getsockname()[1]
    with serving(acceptor, bound, echo, make_loop, signals=2):
        yield Running(port, echo, acceptor)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_server() as running:
        yield running


def talk(server: Running, *pieces: bytes, until: bytes | None = None) -> bytes:
    """Send, and return all that comes back: until the server closes, or until some bytes were seen."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        for piece in pieces:
            client.sendall(piece)
        came = b""
        while until is None or until not in came:
            piece = client.recv(65536)
            if not piece:
                break
            came += piece
        return came


def get(path: str = "/", *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def post(body: bytes, *headers: str) -> bytes:
    return (
        "\r\n".join(["POST /p HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body
    )


CLOSE = "Connection: close"


def test_connection_is_kept_for_the_next_request(server: Running):
    """A connection a request would cost as much as a small subnet."""
    came = talk(server, get("/a"), get("/b", CLOSE))
    assert came.count(b"HTTP/1.1 200 OK") == 2
    assert came.endswith(b'["GET", "/b", 0, ""]')
    assert came.count(b"connection: close") == 1


def test_pipelined_requests_are_answered_in_order(server: Running):
    """Requests may come before the answers to earlier ones, also in one packet, also with bodies."""
    came = talk(server, b"\r\n" + post(b"one") + get("/two") + post(b"x" * 30_000) + get("/four", CLOSE))
    order = [came.index(text) for text in (b'3, "one"]', b'"/two"', b"30000", b'"/four"')]
    assert order == sorted(order)
    assert came.count(b"HTTP/1.1 200 OK") == 4


def test_body_arrives_whole_however_it_is_cut(server: Running):
    """The head may come in pieces, and the body in others."""
    request = post(b"y" * 90_000, CLOSE)
    pieces = [request[:10], request[10:70], request[70:50_000], request[50_000:]]
    assert b'90000, "yyyyyyyy"]' in talk(server, *pieces)


def test_chunked_body_is_put_together(server: Running):
    """Clients that do not know the length beforehand send chunks."""
    head = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    came = talk(server, head + b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n" + get("/next", CLOSE))
    assert b'["POST", "/c", 5, "abcde"]' in came
    assert b'"/next"' in came


def test_client_that_waits_for_leave_gets_it(server: Running):
    """curl waits a second for 100 Continue before it sends a large body."""
    head = post(b"", "Expect: 100-continue", CLOSE).replace(b"Content-Length: 0", b"Content-Length: 4")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(head)
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        assert b'4, "body"]' in client.recv(1000)


@pytest.mark.parametrize("extra", ["Content-Length: 90000", "Transfer-Encoding: chunked", "Expect: 100-continue"])
def test_body_that_leads_nowhere_is_not_awaited(server: Running, extra: str):
    """A stranger could send what nobody will read; who waits for leave does not get it."""
    headers = [extra] if extra.startswith("Transfer") else ["Content-Length: 90000", *[extra] * extra.startswith("E")]
    came = talk(server, get("/nowhere", *headers).replace(b"GET", b"POST"))
    assert came.startswith(b"HTTP/1.1 404 ")
    assert b"connection: close" in came
    assert server.acceptor.held_bytes == 0


def test_small_body_that_leads_nowhere_keeps_the_connection(server: Running):
    """It is here already, so the next request can follow it."""
    came = talk(server, post(b"abc").replace(b"/p", b"/nowhere") + get("/next", CLOSE))
    assert b'"/nowhere", 3' in came
    assert b'"/next"' in came


def test_answer_to_head_has_no_body(server: Running):
    """Its length is that of the answer to GET; the next answer would be misread otherwise."""
    came = talk(server, get("/").replace(b"GET", b"HEAD", 1), get("/z", CLOSE))
    first, _, rest = came.partition(b"\r\n\r\n")
    assert b"content-length: 20" in first
    assert rest.startswith(b"HTTP/1.1 200 OK")


def test_answer_of_unknown_length_is_chunked_or_ends_with_the_connection(server: Running):
    """HTTP/1.1 knows chunks, 1.0 does not."""
    came = talk(server, get("/stream"), get("/", CLOSE))
    assert b"transfer-encoding: chunked\r\n" in came
    assert b"\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\nHTTP/1.1 200" in came
    old = talk(server, b"GET /stream HTTP/1.0\r\n\r\n")
    assert old.endswith(b"\r\n\r\nabcde")
    assert b"chunked" not in old


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"a" * 3000, 431),
        (get("/", "X: " + "y" * 3000), 431),
        (get("/", "Transfer-Encoding: chunked") + b"zz\r\n", 400),
        (get("/", "Transfer-Encoding: chunked") + b"20000\r\n", 413),
        (get("/", "Content-Length: 100001"), 413),
        (get("/", "Content-Length: 8000000000", "Expect: 100-continue"), 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", 408),
        (get("/", "Content-Length: 50") + b"abc", 408),
        (get("/", "Transfer-Encoding: chunked") + b"5\r\nab", 408),
    ],
)
def test_hostile_request_is_refused_and_the_connection_closed(server: Running, sent: bytes, status: int):
    """After such a request nobody knows where the next one begins; slow ones hold memory for nothing."""
    came = talk(server, sent)
    assert came.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close" in came
    assert list(json.loads(came.partition(b"\r\n\r\n")[2])) == ["error"]
    assert b'"/after"' in talk(server, get("/after", CLOSE))


def test_idle_connection_is_closed_without_a_word(server: Running):
    """A client that comes back later must not take an error for its answer."""
    came = talk(server, get("/"))
    assert came.count(b"HTTP/1.1") == 1


def test_error_of_the_application_is_a_500_and_the_server_lives(server: Running):
    """Also when its answer is half written: then only cutting the connection says so."""
    assert talk(server, get("/broken")).startswith(b"HTTP/1.1 500 ")
    assert b"b: c" not in talk(server, get("/split"))
    with contextlib.suppress(ConnectionResetError):
        assert not talk(server, get("/half")).endswith(b'""]')
    assert b'"/"' in talk(server, get("/", CLOSE))


def test_application_learns_that_the_client_is_gone(server: Running):
    """Work for nobody is stopped: by a message, or by cancelling where the application asked for it."""
    for path in ("/wait", "/cancel"):
        server.echo.waiting.clear()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(get(path))
            assert server.echo.waiting.wait(10)
    for _ in range(200):
        if server.echo.gone and server.echo.cancelled:
            break
        talk(server, get("/", CLOSE))
    assert server.echo.gone == ["http.disconnect"]
    assert server.echo.cancelled == ["/cancel"]


def test_bodies_of_all_clients_together_are_bounded(server: Running):
    """Memory must not grow with the number of clients: who comes too late is refused, and may stay."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as first:
        first.sendall(post(b"z" * 90_000)[:-1])
        while not server.acceptor.held_bytes:
            pass
        came = talk(server, post(b"w" * 70_000) + get("/next", CLOSE))
        assert came.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in came
        assert b'"/next"' in came
        first.sendall(b"z")
        assert b"90000" in first.recv(1000)


def test_too_many_connections_are_refused():
    """Each holds a file of the process; the server keeps some for itself."""
    with running_server() as server, contextlib.ExitStack() as stack:
        for _ in range(LIMITS.max_connections):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            client.sendall(get("/"))
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        assert talk(server).startswith(b"HTTP/1.1 503 ")


def test_pythons_own_event_loop_serves_as_well():
    """uvloop is not everywhere; what is read into shared memory must be used before the next read on any loop."""
    with running_server(asyncio.new_event_loop) as server:
        request = post(b"y" * 90_000)
        came = talk(server, request[:50_000], request[50_000:] + get("/two") + post(b"abc", CLOSE))
        assert b'90000, "yyyyyyyy"]' in came
        assert b'"/two"' in came
        assert came.endswith(b'3, "abc"]')
