"""Servers as the benchmarks see them: started and stopped, asked by wrk, their processor time and memory read.

Relies on wrk and on Linux's /proc. ``Bare`` is what every server is held against: a loop around one session of ONNX
Runtime.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime

LUA = """
local file = io.open(os.getenv("BODY"), "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Inference-Header-Content-Length"] = os.getenv("HEADER_LENGTH")
wrk.headers["Content-Type"] = os.getenv("CONTENT_TYPE")
done = function(summary, latency)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format("RESULT %d %d %d %d %.1f %.1f\\n", summary.requests, summary.duration,
    summary.errors.status, bad, latency:percentile(50), latency:percentile(99)))
end
"""

BARE = """
import sys, time
import numpy as np, onnxruntime
path, size, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
for _ in range(3):
    session.run(None, {"input": np.zeros((batch, 3, size, size), np.float32)})
print("up", flush=True)
time.sleep(60)
"""


class Bare:
    """A loop around a session, with nothing else."""

    def __init__(self, path: Path, size: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._path, self._size = path, size

    def rate(self, batch: int, seconds: float) -> float:
        """Return images a second, from the median call."""
        images = np.random.default_rng(0).normal(size=(batch, 3, self._size, self._size)).astype(np.float32)
        spent: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(spent) < 5:
            start = time.perf_counter()
            self._session.run(None, {"input": images})
            spent.append(time.perf_counter() - start)
        return batch / float(np.median(spent[len(spent) // 5 :]))

    def resident_bytes(self, batch: int) -> int:
        """Return the memory of a fresh process that holds the session and has run such a batch, three times."""
        command = [sys.executable, "-c", BARE, str(self._path), str(self._size), str(batch)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            size_bytes = resident_bytes(process.pid)
            process.kill()
        return size_bytes


class Body(NamedTuple):
    """What wrk sends again and again."""

    path: Path
    json_length: int
    content_type: str = "application/octet-stream"


def request_of(size: int, datatype: str, folder: Path, name: str) -> Body:
    """Write a body with a binary tensor of one image."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, 3, size, size), dtype=np.uint8)
    images = pixels if datatype == "UINT8" else pixels.astype(np.float32) / 255
    tensor = {
        "name": name,
        "shape": list(images.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": images.nbytes},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    path = folder / f"{datatype}-{size}.bin"
    path.write_bytes(head + images.tobytes())
    return Body(path, len(head))


def base64_request_of(size: int, folder: Path) -> Body:
    """Write a body of JSON alone, with the bytes of one image's FP32 tensor as text: for who has no binary tensors."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, 3, size, size), dtype=np.uint8).astype(np.float32) / 255
    text = base64.b64encode(images.tobytes()).decode()
    tensor = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [text]}
    path = folder / f"base64-{size}.json"
    path.write_text(json.dumps({"inputs": [tensor]}))
    return Body(path, path.stat().st_size, "application/json")


class Told(NamedTuple):
    """What wrk counted."""

    requests: int
    rate: float
    """Answered with success, a second."""

    errors: int
    p50_ms: float
    p99_ms: float


def wrk(url: str, body: Body, concurrency: int, seconds: float) -> Told:
    """Ask again and again, from one thread that keeps to the first core, so that it wanders onto no engine's."""
    script = body.path.with_name("ask.lua")
    script.write_text(LUA)
    environment = {**os.environ, "BODY": str(body.path), "HEADER_LENGTH": str(body.json_length)}
    environment["CONTENT_TYPE"] = body.content_type
    command = ["taskset", "-c", str(min(os.sched_getaffinity(0))), "wrk", "-t1", f"-c{concurrency}"]
    command += [f"-d{round(seconds)}s", "--timeout", "10s", "-s", str(script), url]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+)", said)
    assert found is not None, said
    requests, micros, refused, broken = (int(found[index]) for index in range(1, 5))
    rate = (requests - refused) / (micros / 1e6)
    return Told(requests, rate, refused + broken, float(found[5]) / 1e3, float(found[6]) / 1e3)


def _tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for children in Path("/proc").glob(f"{pid}/task/*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                found += _tree(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """Return what a process and its descendants have used of the processor."""
    total = 0
    for process in _tree(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process, and what of its descendants' is theirs alone."""
    total = 0
    for process in _tree(pid):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            counted = r"Rss" if process == pid else r"Private_(?:Clean|Dirty)"
            total += sum(1024 * int(found) for found in re.findall(rf"^{counted}:\s+(\d+)", text, re.M))
    return total


@contextlib.contextmanager
def started(command: list[str], url: str, environment: dict[str, str] | None = None) -> Iterator[tuple[int, float]]:
    """Start a server; yield its process and the seconds until it was ready, the process's own start included.

    Raises:
        AssertionError: something else answers there already, or the server ends or does not become ready.
    """
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1):
        raise AssertionError(f"{url} answers before the server was started; end what listens there")
    # As after an ordinary installation, Python may keep what it compiled: without, our start is longer.
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    server = subprocess.Popen(
        command,
        env={**inherited, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=os.setpgrp,
    )
    try:
        while True:
            assert server.poll() is None, f"{command} ended with {server.returncode}"
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    break
            assert time.perf_counter() - start < 90, f"{command} does not become ready"
            time.sleep(0.01)
        yield server.pid, time.perf_counter() - start
    finally:
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # some leave processes of theirs behind
        server.wait()
