"""The head of a request: what is plain is read, and whatever two servers could read differently is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deps.serve.front.head import parse_head
from deps.serve.refusals import RefusedError


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def test_plain_head_is_read_whole():
    """All that the server decides by."""
    found = parse_head(head("POST /v2/a%20b?x=1&y HTTP/1.1", "Host: x", "Content-Length: 12", "X-Y: a, b"))
    assert (found.method, found.path, found.query, found.length) == ("POST", b"/v2/a%20b", b"x=1&y", 12)
    assert found.keeps_alive
    assert found.headers == ((b"host", b"x"), (b"content-length", b"12"), (b"x-y", b"a, b"))
    assert found.scope()["path"] == "/v2/a b"
    found.scope()["headers"].clear()  # what an application does to its own list stays with it
    assert len(found.scope()["headers"]) == 3


@pytest.mark.parametrize(
    ("line", "headers", "keeps"),
    [
        ("GET / HTTP/1.1", ["Host: x"], True),
        ("GET / HTTP/1.1", ["Host: x", "Connection: close"], False),
        ("GET / HTTP/1.0", [], False),
        ("GET / HTTP/1.0", ["Connection: keep-alive"], True),
    ],
)
def test_connection_is_kept_as_the_version_says(line: str, headers: list[str], keeps: bool):
    """1.1 keeps it unless told, 1.0 closes it unless told."""
    assert parse_head(head(line, *headers)).keeps_alive is keeps


@pytest.mark.parametrize(
    ("target", "path"), [("http://host/v2?q", b"/v2"), ("HTTPS://h:80/", b"/"), ("http://host", b"/"), ("/a#b", b"/a")]
)
def test_target_may_name_the_host(target: str, path: bytes):
    """Proxies send the whole address."""
    assert parse_head(head(f"GET {target} HTTP/1.1", "Host: x")).path == path


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["GET / HTTP/1.1"], 400),
        (["GET / HTTP/1.1", "Host: a", "Host: b"], 400),
        (["GET / HTTP/1.1", "Host : a"], 400),
        (["GET / HTTP/1.1", "Host: a", " folded: b"], 400),
        (["GET / HTTP/1.1", "Host: a\nX: b"], 400),
        (["GET / HTTP/1.1", "Host: a", "X: \x00"], 400),
        (["POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Content-Length: 6"], 400),
        (["POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Transfer-Encoding: chunked"], 400),
        (["POST / HTTP/1.1", "Host: a", "Content-Length: -5"], 400),
        (["POST / HTTP/1.1", "Host: a", "Content-Length: 0x5"], 400),
        (["POST / HTTP/1.1", "Host: a", "Content-Length: 99999999999999999999999"], 400),
        (["POST / HTTP/1.1", "Host: a", "Transfer-Encoding: gzip, chunked"], 501),
        (["POST / HTTP/1.0", "Transfer-Encoding: chunked"], 400),
        (["POST / HTTP/1.1", "Host: a", "Expect: a pony"], 417),
        (["GET * HTTP/1.1", "Host: a"], 400),
        (["GET / HTTP/2.0", "Host: a"], 505),
        (["\x16\x03\x01 hello", "x"], 400),
        (["NONSENSE / HTTP/1.1", "Host: a"], 400),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(lines: list[str], status: int):
    """Request smuggling lives on heads that two servers understand differently."""
    with pytest.raises(RefusedError) as caught:
        parse_head(head(*lines))
    assert caught.value.status in (status, 400)


def test_address_that_is_no_text_is_refused():
    """ASGI tells addresses as text."""
    with pytest.raises(RefusedError, match="UTF-8"):
        parse_head(head("GET /%ff HTTP/1.1", "Host: x")).scope()


@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_head_or_a_refusal(content: bytes):
    """Nothing a stranger sends may become an error of ours."""
    with contextlib.suppress(RefusedError):
        assert parse_head(content + b"\r\n\r\n").scope()["type"] == "http"
