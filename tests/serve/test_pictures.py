"""Pictures that many clients send at once: whose turn it is, how much memory they may take, and when none comes."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deps.serve import images
from deps.serve.manifest import InputSpec
from deps.serve.pictures import Pictures
from deps.serve.refusals import RefusedError

SPEC = InputSpec(shape=(1, 8, 8), color="L", mean=(0.5,), std=(0.25,))


def _png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (width, height), 255).save(stream, "PNG")
    return stream.getvalue()


class _Watched:
    """Stands before the decoding: how many were in it at a time, by how large they were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, pause_s: float = 0.03) -> None:
        self.now = {"small": 0, "large": 0}
        self.most = {"small": 0, "large": 0}
        self.decoded = 0
        self._lock = threading.Lock()
        self._pause_s = pause_s
        self._decode = images._decode
        monkeypatch.setattr(images, "_decode", self)

    def __call__(self, image: Image.Image, spec: InputSpec) -> Image.Image:
        kind = "large" if image.size[0] > 100 else "small"
        with self._lock:
            self.now[kind] += 1
            self.decoded += 1
            self.most[kind] = max(self.most[kind], self.now[kind])
        try:
            time.sleep(self._pause_s)
            return self._decode(image, spec)
        finally:
            with self._lock:
                self.now[kind] -= 1


def test_large_pictures_are_decoded_one_at_a_time_and_small_ones_beside_them(monkeypatch: pytest.MonkeyPatch):
    """Two dozen files of 190 kB, 50 million pixels each, once took 2.5 GB and every thread of the server."""
    monkeypatch.setattr("deps.serve.pictures.LARGE_PIXELS", 10_000)
    watched = _Watched(monkeypatch)

    async def ask() -> tuple[float, float]:
        pictures = Pictures()
        begun = time.monotonic()
        large = asyncio.gather(*(pictures.decode(_png(200, 200), SPEC) for _ in range(8)))
        small = await asyncio.gather(*(pictures.decode(_png(20, 20), SPEC) for _ in range(4)))
        waited = time.monotonic() - begun
        whole = await large
        pictures.close()
        for image_CHW in (*small, *whole):
            np.testing.assert_array_equal(image_CHW, np.full((1, 8, 8), 2, np.float32))
        return waited, time.monotonic() - begun

    waited, took = asyncio.run(ask())
    assert watched.most["large"] == 1
    assert 2 <= watched.most["small"] <= 4
    assert waited < took  # the small ones did not stand behind the large ones


MEMORY = """
import asyncio, io
from pathlib import Path
from PIL import Image
from deps.serve.manifest import InputSpec
from deps.serve.pictures import Pictures

SPEC = InputSpec(shape=(3, 224, 224), color="RGB", mean=(0.5,) * 3, std=(0.25,) * 3)

def png(width, height):
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()

def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

async def ask(files):
    pictures = Pictures()
    await pictures.decode(png(20, 20), SPEC)
    before = megabytes()
    for file in files:
        await asyncio.gather(*(pictures.decode(file, SPEC) for _ in range(4)))
        print(megabytes() - before)

asyncio.run(ask([png(3900, 4000), png(7000, 7000)]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_of_a_large_picture_goes_back_to_the_system():
    """Four telephone pictures at once take 250 MB, one of 49 million pixels 200 MB; an edge device wants them back."""
    told = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout.split()
    assert max(map(float, told)) < 60


def test_large_picture_that_is_too_large_does_not_wait_to_be_told_so(monkeypatch: pytest.MonkeyPatch):
    """Its head says so already."""
    monkeypatch.setattr("deps.serve.pictures.LARGE_PIXELS", 10_000)
    monkeypatch.setattr(images.open_image, "__kwdefaults__", {"max_pixels": 100_000})
    watched = _Watched(monkeypatch, pause_s=0.2)

    async def ask() -> None:
        pictures = Pictures()
        waiting = asyncio.ensure_future(pictures.decode(_png(200, 200), SPEC))
        await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="too large") as caught:
            await pictures.decode(_png(400, 400), SPEC)
        assert caught.value.status == 413
        assert not waiting.done()
        await waiting
        pictures.close()

    asyncio.run(ask())
    assert watched.decoded == 1


def test_picture_whose_time_is_over_or_whose_client_is_gone_is_not_decoded(monkeypatch: pytest.MonkeyPatch):
    """Under load, work for nobody is what makes everybody late."""
    monkeypatch.setattr("deps.serve.pictures._THREADS", 1)
    watched = _Watched(monkeypatch, pause_s=0.1)

    async def ask() -> None:
        pictures = Pictures()
        first = asyncio.ensure_future(pictures.decode(_png(20, 20), SPEC))
        late = asyncio.ensure_future(pictures.decode(_png(20, 20), SPEC, until=time.monotonic() + 0.01))
        gone = asyncio.ensure_future(pictures.decode(_png(20, 20), SPEC))
        await asyncio.sleep(0.02)
        gone.cancel()
        with pytest.raises(RefusedError, match="deadline passed") as caught:
            await late
        assert (caught.value.status, caught.value.retry_after_s) == (503, 1)
        await first
        await asyncio.gather(gone, return_exceptions=True)
        pictures.close()

    asyncio.run(ask())
    assert watched.decoded == 1
