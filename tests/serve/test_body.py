"""A body is read within its limit, whatever it is compressed to."""

from __future__ import annotations

import asyncio
import tracemalloc
import zlib

import pytest

from deps.serve.body import read_body
from deps.serve.refusals import RefusedError

MIB = 2**20


@pytest.mark.parametrize(("encoding", "window"), [("gzip", 31), ("deflate", 15)])
def test_what_a_bomb_would_unfold_to_is_never_in_memory(encoding: str, window: int):
    """64 kB can hold 64 MiB; the refusal must come before they are there, not after."""
    machine = zlib.compressobj(9, zlib.DEFLATED, window)
    bomb = b"".join(machine.compress(bytes(MIB)) for _ in range(64)) + machine.flush()
    assert len(bomb) < MIB / 8

    async def receive() -> dict:
        return {"type": "http.request", "body": bomb, "more_body": False}

    tracemalloc.start()
    try:
        with pytest.raises(RefusedError) as caught:
            asyncio.run(read_body(receive, {b"content-encoding": encoding.encode()}, MIB))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.status == 413
    assert peak < 8 * MIB
