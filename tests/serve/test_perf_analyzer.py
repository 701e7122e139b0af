"""NVIDIA's perf_analyzer measures our server: it reads metadata, configuration and statistics, and loads it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deps.serve.service import ServeOptions
from running import Running, running

PROGRAM = os.environ.get("DEPS_PERF_ANALYZER") or shutil.which("perf_analyzer") or ""

pytestmark = pytest.mark.skipif(
    not PROGRAM, reason="perf_analyzer is neither on the path nor named by $DEPS_PERF_ANALYZER (docs/serving.md)"
)


@pytest.fixture(scope="module")
def server(make_bundle: Callable[..., Path]) -> Iterator[Running]:
    options = ServeOptions(subnet="large", max_batch=4, num_threads=1)
    with running(make_bundle(), options=options, with_grpc=True) as server:
        yield server


@pytest.mark.parametrize("words", ["http tiny 1", "http tiny-uint8 4", "grpc tiny 2", "grpc tiny-uint8 1"])
def test_perf_analyzer_measures_without_an_error(server: Running, words: str):
    """What it reports as the server's own counts agrees with what it sent."""
    transport, model, batch = words.split()
    address = server.address if transport == "http" else server.grpc
    # The wheel's binary links CUDA's runtime even where there is no GPU; the library lies beside it in its environment.
    libraries = Path(PROGRAM).resolve().parents[1].glob("lib/python3*/site-packages/nvidia/cuda_runtime/lib")
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    command = [PROGRAM, "-m", model, "-u", address, "-i", transport, "-b", batch, "--concurrency-range", "2"]
    command += ["--measurement-mode", "count_windows", "--measurement-request-count", "50", "-s", "999"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr

    def told(what: str) -> int:
        found = re.search(rf"{what}: (\d+)", done.stdout)
        assert found is not None, done.stdout
        return int(found[1])

    assert told("Request count") >= 50
    assert told("Successful request count") >= 50
    assert told("Inference count") == int(batch) * told("Successful request count")
    assert 0 < told("Execution count") <= told("Inference count")
