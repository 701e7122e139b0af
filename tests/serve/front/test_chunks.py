"""A body in chunks is put together however it is cut, and nothing but the grammar is let through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deps.serve.front.chunks import ChunkedBody
from deps.serve.refusals import RefusedError


@given(data=st.data(), chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=6))
def test_body_is_the_same_however_it_arrives(data: st.DataObject, chunks: list[bytes]):
    """Networks cut where they like: inside sizes, line ends and trailers."""
    sent = b"".join(b"%x;name=value\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    sent += b"0\r\nTrailer: x\r\n\r\n" + b"GET /"
    body, rest, at = ChunkedBody(1000), b"", 0
    while at < len(sent):
        step = data.draw(st.integers(1, 12))
        rest += sent[at : at + step] if body.is_whole else body.feed(sent[at : at + step])
        at += step
    assert body.is_whole
    assert bytes(body.body) == b"".join(chunks)
    assert rest == b"GET /"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"x\r\n", 400),
        (b"-1\r\n", 400),
        (b"+5\r\nhello\r\n", 400),
        (b"0x5\r\nhello\r\n", 400),
        (b"\r\n", 400),
        (b"5\r\nhelloworld\r\n", 400),
        (b"ffffffffffffffffff\r\n", 400),
        (b"5" * 5000, 400),
        (b"1;" + b"x" * 5000 + b"\r\n", 400),
        (b"0\r\n" + b"a: b\r\n" * 100, 400),
        (b"65\r\n", 413),
        (b"60\r\n" + bytes(96) + b"\r\n5\r\n", 413),
    ],
)
def test_wrong_chunks_are_refused(sent: bytes, status: int):
    """A size may be announced without being sent; the limit holds for what is announced."""
    with pytest.raises(RefusedError) as caught:
        ChunkedBody(100).feed(sent)
    assert caught.value.status == status
