"""Read a request's body within a limit, compressed or not.

Relies on ASGI's messages; nothing is held in memory beyond the limit, before or after decompression.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping

from deps.serve.refusals import ClientGoneError, RefusedError, body_too_large
from deps.serve.replies import Receive

DEFAULT_MAX_BODY_BYTES = 32 * 2**20

# gzip's own header, and the zlib header that HTTP means by "deflate".
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def announced_encoding(headers: Mapping[bytes, bytes], max_bytes: int) -> str | None:
    """Return how a body will be compressed, None for not at all, as the head announces it.

    Raises:
        RefusedError: it will be too large (413), or the encoding is unknown (415).
    """
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > max_bytes:
        raise body_too_large(max_bytes)
    encoding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
    if encoding == "identity":
        return None
    if encoding not in _WINDOW_BITS:
        raise RefusedError(
            f"Content-Encoding is {encoding!r}; expected gzip, deflate or none; send the body uncompressed", status=415
        )
    return encoding


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], max_bytes: int) -> bytes | memoryview:
    """Return the whole body, decompressed; a body that came in one piece is not copied.

    Args:
        receive: gives the body as it arrives.
        headers: of the request, names in lower case; a body that announces too much is not read at all.
        max_bytes: limit for the body as it is sent, and for what it decompresses to.

    Raises:
        RefusedError: too large (413), an unknown encoding (415), or damaged compression (400).
        ClientGoneError: the client hung up in the middle.
    """
    encoding = announced_encoding(headers, max_bytes)
    pieces: list[bytes | memoryview] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > max_bytes:
            raise body_too_large(max_bytes)
        if chunk:
            pieces.append(chunk)
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if encoding is None:
        return body
    # A whole body of zeros takes a moment to unfold, which other requests should not wait for.
    return await asyncio.to_thread(_decompress, body, encoding, max_bytes)


def _decompress(body: bytes | memoryview, encoding: str, max_bytes: int) -> bytes:
    machine = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        plain = machine.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise RefusedError(f"the body is not {encoding} ({error}); expected what Content-Encoding says") from error
    if len(plain) > max_bytes:
        raise body_too_large(max_bytes)
    if not machine.eof or machine.unused_data:
        raise RefusedError(f"the {encoding} body is cut short or has bytes after its end; expected exactly one stream")
    return plain


# Below this, an answer fits into one packet and compressing it only costs time.
COMPRESS_FROM_BYTES = 1024


def accepted_encoding(header: str | None, size_bytes: int) -> str | None:
    """Return the encoding in which an answer shall be sent, gzip before deflate, or None for as it is.

    Args:
        header: ``Accept-Encoding`` as it was sent; one with the weight 0 is refused by the client.
        size_bytes: length of the answer; short ones are not worth it.
    """
    if header is None or size_bytes < COMPRESS_FROM_BYTES:
        return None
    wanted = set()
    for part in header.split(","):
        name, _, weight = part.strip().lower().partition(";")
        if weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            wanted.add(name.strip())
    return next((encoding for encoding in ("gzip", "deflate") if encoding in wanted), None)


def compress(body: bytes, encoding: str) -> bytes:
    """Return an answer compressed, quickly rather than well."""
    machine = zlib.compressobj(1, zlib.DEFLATED, _WINDOW_BITS[encoding])
    return machine.compress(body) + machine.flush()
