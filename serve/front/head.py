"""The head of one HTTP request: its line and its headers, strictly read.

Relies on httptools (llhttp) for the grammar, which also refuses what smuggles: two lengths, a length beside chunks,
bare line feeds, spaces before a colon.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import httptools

from deps.serve.refusals import RefusedError

END = b"\r\n\r\n"

REMEMBERED_HEADS = 256

_JSON_LENGTH = b"inference-header-content-length"


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """What a request says before its body; requests with the same bytes share one."""

    method: str
    """In capitals."""

    path: bytes
    """As it was sent, without the query."""

    query: bytes
    """Without the question mark."""

    version: str
    """``1.1`` or ``1.0``."""

    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case, in the order they came."""

    keeps_alive: bool
    """Whether the client wants to go on with this connection."""

    length: int
    """Announced bytes of the body; 0 without one, or when it comes in chunks."""

    json_length: int
    """How many bytes of the body come before its tensor, as far as the head says so plainly."""

    is_chunked: bool
    """Whether the body comes in chunks."""

    expects_continue: bool
    """Whether the client waits for leave to send its body."""

    def plain_path(self) -> str:
        """Return the path as text, without percent signs.

        Raises:
            RefusedError: it is not text in UTF-8.
        """
        plain = unquote_to_bytes(self.path) if b"%" in self.path else self.path
        try:
            return plain.decode()
        except UnicodeDecodeError as error:
            raise RefusedError("the address is not UTF-8; expected percent-encoded UTF-8") from error

    def scope(self) -> dict[str, Any]:
        """Return what ASGI tells of the request, but for addresses.

        Raises:
            RefusedError: the path is not text in UTF-8.
        """
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self.version,
            "method": self.method,
            "scheme": "http",
            "path": self.plain_path(),
            "raw_path": self.path,
            "query_string": self.query,
            "root_path": "",
            "headers": list(self.headers),
        }


class _Reader:
    """What llhttp calls while it reads."""

    __slots__ = ("headers", "is_whole", "keeps_alive", "parser", "target")

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.keeps_alive = False
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_whole = False

    def on_url(self, piece: bytes) -> None:
        self.target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.is_whole = True
        self.keeps_alive = bool(self.parser.should_keep_alive())  # later it speaks of the next request


@functools.lru_cache(maxsize=REMEMBERED_HEADS)
def parse_head(content: bytes) -> Head:
    """Read a head that ends with an empty line; from one client it is the same again and again, and read once.

    Raises:
        RefusedError: malformed (400), a transfer coding other than chunked (501), an expectation other than to
            continue (417), or a version of HTTP that is not spoken here (505).
    """
    reader = _Reader()
    parser = reader.parser
    try:
        parser.feed_data(content)
    except httptools.HttpParserUpgrade:
        pass  # an invitation to another protocol may be ignored
    except httptools.HttpParserError as error:
        raise RefusedError(f"the request is not HTTP ({error}); expected HTTP/1.1") from error
    if not reader.is_whole:
        raise RefusedError("the request is not HTTP; expected a request line, headers and an empty line")
    del reader.parser  # each knows the other; without this, memory would wait for the garbage collector
    version = parser.get_http_version()
    if version not in ("1.1", "1.0"):
        raise RefusedError(f"HTTP/{version} is not spoken here; expected HTTP/1.1", status=505)
    length, json_length, is_chunked, expects_continue, hosts = 0, 0, False, False, 0
    for name, value in reader.headers:
        if name == b"content-length":
            length = _length(value)
        elif name == b"transfer-encoding":
            if is_chunked or value.strip().lower() != b"chunked":
                raise RefusedError("Transfer-Encoding is not understood; expected chunked alone", status=501)
            is_chunked = True
        elif name == b"expect":
            if value.strip().lower() != b"100-continue":
                raise RefusedError("Expect is not understood; expected 100-continue", status=417)
            expects_continue = version == "1.1"
        elif name == b"host":
            hosts += 1
        elif name == _JSON_LENGTH and value.isdigit() and len(value) < 10:
            json_length = int(value)
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise RefusedError(f"the request has {hosts} Host headers; expected one")
    if is_chunked and version == "1.0":
        raise RefusedError("HTTP/1.0 knows no chunks; expected Content-Length")
    path, query = _split(reader.target)
    return Head(
        method=parser.get_method().decode("ascii"),
        path=path,
        query=query,
        version=version,
        headers=tuple(reader.headers),
        keeps_alive=reader.keeps_alive,
        length=length,
        json_length=min(json_length, length),
        is_chunked=is_chunked,
        expects_continue=expects_continue,
    )


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise RefusedError(f"Content-Length is {value[:20]!r}; expected a whole number of bytes")
    return int(value)


def _split(target: bytes) -> tuple[bytes, bytes]:
    """Return the path and the query of a request's target, which may name the host too."""
    if not target.startswith(b"/"):
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise RefusedError(f"the address is {target[:40]!r}; expected a path that starts with /")
        target = b"/" + rest.partition(b"/")[2]
    path, _, query = target.partition(b"?")
    return path.partition(b"#")[0], query
