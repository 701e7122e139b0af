"""How much of a bare ONNX Runtime loop is left behind the server: requests a second, latency, processor, memory.

Everything in one run on one machine: the same ONNX files, the same load (wrk, which sends one body again and again),
one ONNX Runtime thread. Before and after every point the bare loop is timed again, and the point is told as a ratio to
the mean of the two, so that a machine that slows down does not speak for or against anybody.

    .venv/bin/python benchmarks/serving.py --out benchmarks/results/serving.json [--seconds 4] [--only m32]
    .venv/bin/python benchmarks/serving.py --peers litserve=/path/venv/bin/python,mlserver=… --out …

Needs wrk. Peers run in environments of their own; see benchmarks/peers.py for how to make them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from bundles import large_224, narrow_32, small_32, write_bundle

from deps.ground.provenance import provenance

HERE = Path(__file__).resolve().parent
CONCURRENCIES = (1, 8, 32)
BATCHES = (1, 2, 4, 8, 16)
BARE_S = 0.6

LUA = """
local file = io.open(os.getenv("BODY"), "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Inference-Header-Content-Length"] = os.getenv("HEADER_LENGTH")
wrk.headers["Content-Type"] = "application/octet-stream"
done = function(summary, latency)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format("RESULT %d %d %d %d %.1f %.1f\\n", summary.requests, summary.duration,
    summary.errors.status, bad, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Point:
    """One server, model, type and number of clients."""

    server: str
    model: str
    datatype: str
    concurrency: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_s_per_1000: float
    bare_per_s: float
    """Of the bare loop beside it: its best batch, or batch 1 where there is one client."""

    bare_ms: float
    """One image in the bare loop beside it."""

    ratio: float


class Bare:
    """A loop around a session, with nothing else."""

    def __init__(self, path: Path, size: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._size = size

    def rate(self, batch: int, seconds: float = BARE_S) -> float:
        """Return images a second, from the median call."""
        images = np.random.default_rng(0).normal(size=(batch, 3, self._size, self._size)).astype(np.float32)
        spent: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(spent) < 5:
            start = time.perf_counter()
            self._session.run(None, {"input": images})
            spent.append(time.perf_counter() - start)
        return batch / float(np.median(spent[len(spent) // 5 :]))


def request_of(size: int, datatype: str, folder: Path, name: str) -> tuple[Path, int]:
    """Write a body with a binary tensor; return its file and the length of its JSON."""
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
    return path, len(head)


def wrk(url: str, body: Path, header_length: int, concurrency: int, seconds: int, folder: Path) -> dict[str, float]:
    """Ask again and again; return what wrk counted."""
    script = folder / "ask.lua"
    script.write_text(LUA)
    environment = {**os.environ, "BODY": str(body), "HEADER_LENGTH": str(header_length)}
    command = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+)", told)
    assert found is not None, told
    requests, micros, refused, broken = (int(found[index]) for index in range(1, 5))
    return {
        "requests": requests,
        "rate": (requests - refused) / (micros / 1e6),
        "errors": refused + broken,
        "p50_ms": float(found[5]) / 1e3,
        "p99_ms": float(found[6]) / 1e3,
    }


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
    """Return the resident memory of a process and its descendants, pages that they share counted once."""
    total = 0
    for process in _tree(pid):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += 1024 * int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1])  # type: ignore[index]
    return total


@contextlib.contextmanager
def started(command: list[str], url: str, environment: dict[str, str] | None = None) -> Iterator[tuple[int, float]]:
    """Start a server; yield its process and the seconds until it was ready."""
    start = time.perf_counter()
    server = subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
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
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def bare_memory(path: Path, size: int) -> int:
    """Return the resident memory of a fresh process that holds the session and has run one image."""
    code = (
        "import numpy as np, onnxruntime as ort, sys, time\n"
        "o = ort.SessionOptions(); o.intra_op_num_threads = 1\n"
        f"s = ort.InferenceSession({str(path)!r}, o, providers=['CPUExecutionProvider'])\n"
        f"s.run(None, {{'input': np.zeros((1, 3, {size}, {size}), np.float32)}})\n"
        "print('up', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    size_bytes = resident_bytes(process.pid)
    process.kill()
    process.wait()
    process.stdout.close()
    return size_bytes


def measure(
    server: str, pid: int, url: str, model: str, size: int, datatype: str, name: str, bare: Bare, best: int, args: Any
) -> list[Point]:
    """Measure one server with one type of tensor at every number of clients."""
    points = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        body, header_length = request_of(size, datatype, folder, name)
        wrk(url, body, header_length, 8, 1, folder)
        for concurrency in args.concurrencies:
            batch = 1 if concurrency == 1 else best
            before, cpu = bare.rate(batch), cpu_seconds(pid)
            told = wrk(url, body, header_length, concurrency, args.seconds, folder)
            cpu = cpu_seconds(pid) - cpu
            after = bare.rate(batch)
            beside = (before + after) / 2
            points.append(
                Point(
                    server=server,
                    model=model,
                    datatype=datatype,
                    concurrency=concurrency,
                    requests_per_s=round(told["rate"], 1),
                    p50_ms=round(told["p50_ms"], 3),
                    p99_ms=round(told["p99_ms"], 3),
                    errors=int(told["errors"]),
                    cpu_s_per_1000=round(1000 * cpu / max(1, told["requests"]), 3),
                    bare_per_s=round(beside, 1),
                    bare_ms=round(1e3 / bare.rate(1, 0.2), 3),
                    ratio=round(told["rate"] / beside, 3),
                )
            )
            print(json.dumps(asdict(points[-1])), file=sys.stderr, flush=True)
    return points


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True, help="JSON; points of earlier runs in it are kept")
    parser.add_argument("--seconds", type=int, default=4, help="whole seconds for every point (default: 4)")
    parser.add_argument("--only", action="append", help="one of m224, m32, m32-narrow; repeatable")
    parser.add_argument("--types", default="FP32,UINT8")
    parser.add_argument("--concurrencies", type=lambda text: [int(n) for n in text.split(",")], default=CONCURRENCIES)
    parser.add_argument("--peers", default="", help="name=python,…: servers to run beside ours")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "deps-serving")
    args = parser.parse_args()
    report: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {"points": [], "servers": []}
    for model, (space, arch) in (("m224", large_224()), ("m32", small_32()), ("m32-narrow", narrow_32())):
        if args.only and model not in args.only:
            continue
        size = arch.resolution
        bundle = write_bundle(args.work / model, model, [("only", space, arch, None)])
        path = bundle / "models" / "only" / "fp32.onnx"
        bare = Bare(path, size)
        rates = {batch: round(bare.rate(batch), 1) for batch in BATCHES}
        best = max(rates, key=lambda batch: rates[batch])
        print(json.dumps({"bare": rates}), file=sys.stderr)
        report["servers"].append({"server": "bare", "model": model, "flops": _flops(bundle), "images_per_s": rates})
        port = 18000 + size
        ours = [str(Path(sys.executable).with_name("deps-serve")), str(bundle), "--port", str(port), "--threads", "1"]
        url = f"http://127.0.0.1:{port}/v2"
        with started([*ours, "--log-level", "error"], f"{url}/health/ready") as (pid, ready_s):
            for datatype in args.types.split(","):
                served, name = (model, "input") if datatype == "FP32" else (f"{model}-uint8", "image")
                asked = f"{url}/models/{served}/infer"
                report["points"] += [
                    asdict(point)
                    for point in measure("deps", pid, asked, model, size, datatype, name, bare, best, args)
                ]
            resident, alone = resident_bytes(pid), bare_memory(path, size)
            report["servers"].append(
                {
                    "server": "deps",
                    "model": model,
                    "ready_s": round(ready_s, 2),
                    "resident_mb": round(resident / 1e6, 1),
                    "bare_resident_mb": round(alone / 1e6, 1),
                    "resident_ratio": round(resident / alone, 2),
                }
            )
            print(json.dumps(report["servers"][-1]), file=sys.stderr)
        for peer in filter(None, args.peers.split(",")):
            peer_name, _, python = peer.partition("=")
            command = [python, str(HERE / "peers.py"), peer_name, str(path), str(size), str(port + 1)]
            try:
                with started(command, f"http://127.0.0.1:{port + 1}/v2/health/ready") as (pid, ready_s):
                    asked = f"http://127.0.0.1:{port + 1}/v2/models/m/infer"
                    points = measure(peer_name, pid, asked, model, size, "FP32", "input", bare, best, args)
                    report["points"] += [asdict(point) for point in points]
                    facts = {"ready_s": round(ready_s, 2), "resident_mb": round(resident_bytes(pid) / 1e6, 1)}
                    report["servers"].append({"server": peer_name, "model": model, **facts})
            except (AssertionError, OSError) as error:
                report["servers"].append({"server": peer_name, "model": model, "left_out": str(error)})
        report["provenance"] = provenance()
        args.out.write_text(json.dumps(report, indent=1) + "\n")


def _flops(bundle: Path) -> int:
    return int(json.loads((bundle / "manifest.json").read_text())["subnets"][0]["flops"])


if __name__ == "__main__":
    main()
