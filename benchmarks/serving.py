"""How much of a bare ONNX Runtime loop is left behind the server: requests a second, latency, processor, memory.

Everything in one run on one machine: the same ONNX files, the same load (wrk, which sends one body again and again),
one ONNX Runtime thread. The bare loop is timed right before and right after every load, on a machine that does nothing
else then, and a load is told as a ratio to the mean of the two; of several such rounds the median counts. For one
client, what a server takes that answers the same bytes at once (``floor.py``) is told too. Of our server also for which
share of the time its engine computed, and how much longer an image took there than in the bare loop: the first tells
what the server costs, the second what working beside a load costs.

    .venv/bin/python benchmarks/serving.py --out benchmarks/results/serving.json [--only m32]
    .venv/bin/python benchmarks/serving.py --peers triton=/tmp/triton/bin/python,litserve=… --out …

It says first how long it will take. What the JSON holds already is not measured again, so a run that was cut short goes
on where it stopped. Needs wrk. Peers run in environments of their own; benchmarks/peers.py says how to make them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from models import large_224, narrow_32, small_32, write_bundle
from servers import Bare, base64_request_of, cpu_seconds, request_of, resident_bytes, started, wrk

from deps.ground.provenance import provenance
from deps.serve.bundle import read_bundle

HERE = Path(__file__).resolve().parent
CONCURRENCIES = (1, 8, 32)
BATCHES = (1, 2, 4, 8, 16)
MODELS = {"m224": large_224, "m32": small_32, "m32-narrow": narrow_32}
PORT = 18200
BARE_S = 0.6
STARTS = 3
FLOOR_PORT = PORT + 9
FLOOR_URL = f"http://127.0.0.1:{FLOOR_PORT}/"

ASKED: dict[str, dict[int, float]] = {"m224": {1: 0.90, 8: 0.93, 32: 0.93}, "m32": {32: 0.93}}
"""Ratios to the bare loop that we want to reach, by model and number of clients."""


@dataclass(frozen=True)
class Load:
    """One server asked by so many clients."""

    server: str
    model: str
    datatype: str
    concurrency: int

    def __str__(self) -> str:
        return f"{self.server} {self.model} {self.datatype} {self.concurrency}"


class Report:
    """What was measured, in a file that grows load by load."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = {"bare": {}, "loads": {}, "servers": {}}
        if path.exists():
            self.values |= json.loads(path.read_text())

    def keep(self, part: str, name: str, value: dict[str, Any]) -> None:
        """Add one result, and tell it."""
        self.values[part][name] = value
        self.values["provenance"] = provenance()
        self._path.write_text(json.dumps(self.values, indent=1) + "\n")
        print(json.dumps({name: value}), file=sys.stderr, flush=True)

    def lacks(self, load: Load) -> bool:
        """Tell whether a load is still to be measured."""
        return str(load) not in self.values["loads"]


def measure(pid: int, url: str, name: str, load: Load, size: int, bare: Bare, best: int, args: Any) -> dict[str, Any]:
    """Measure one load in several rounds."""
    batch = 1 if load.concurrency == 1 else best
    rounds, engine = [], []
    with tempfile.TemporaryDirectory() as folder:
        body = request_of(size, load.datatype, Path(folder), name)
        if load.server == "mlserver":
            body = base64_request_of(size, Path(folder))
        wrk(url, body, load.concurrency, 1)
        floor_ms = []
        for _ in range(args.rounds):
            before, cpu_s, computed = bare.rate(batch, BARE_S), cpu_seconds(pid), computed_by(url, load)
            told = wrk(url, body, load.concurrency, args.seconds)
            cpu_s = cpu_seconds(pid) - cpu_s
            engine.append(computed_by(url, load) - computed)
            beside = (before + bare.rate(batch, BARE_S)) / 2
            rounds.append((told, beside, 1e3 * cpu_s / max(1, told.requests)))
            if load.server == "deps" and load.concurrency == 1:
                with started([sys.executable, str(HERE / "floor.py"), str(FLOOR_PORT)], FLOOR_URL):
                    floor_ms.append(wrk(FLOOR_URL, body, 1, 1).p50_ms)
    ratios = [told.rate / beside for told, beside, _ in rounds]
    p50_ms = float(np.median([told.p50_ms for told, *_ in rounds]))
    result = {
        "requests_per_s": round(float(np.median([told.rate for told, *_ in rounds])), 1),
        "ratio": round(float(np.median(ratios)), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "p50_ms": round(p50_ms, 3),
        "p99_ms": round(float(np.median([told.p99_ms for told, *_ in rounds])), 3),
        "errors": sum(told.errors for told, *_ in rounds),
        "cpu_ms_per_request": round(float(np.median([cpu_ms for *_, cpu_ms in rounds])), 3),
        "bare_per_s": round(float(np.median([beside for _, beside, _ in rounds])), 1),
    }
    if load.server == "deps":
        busy = [seconds / args.seconds for seconds, _ in engine]
        slower = [seconds / images * beside for (seconds, images), (_, beside, _) in zip(engine, rounds, strict=True)]
        result["engine_busy"] = round(float(np.median(busy)), 3)
        result["engine_slower"] = round(float(np.median(slower)), 3)
    if floor_ms:
        result["floor_p50_ms"] = round(float(np.median(floor_ms)), 3)
    if load.concurrency == 1:
        result["p50_over_bare_ms"] = round(p50_ms - float(np.median([1e3 / beside for _, beside, _ in rounds])), 3)
    return result


def computed_by(url: str, load: Load) -> npt.NDArray[np.float64]:
    """Return the seconds for which our server's engine has computed, and its images; nothing of other servers."""
    if load.server != "deps":
        return np.zeros(2)
    with urllib.request.urlopen(url.replace("/infer", "/stats"), timeout=5) as answer:
        batches = json.load(answer)["model_stats"][0]["batch_stats"]
    computed = [(batch["compute_infer"]["ns"] / 1e9, batch["compute_infer"]["count"]) for batch in batches]
    images = sum(int(batch["batch_size"]) * count for batch, (_, count) in zip(batches, computed, strict=True))
    return np.array([sum(seconds for seconds, _ in computed), images])


def missing(report: Report, args: Any) -> Iterator[tuple[str, str, list[Load]]]:
    """Yield model, server and the loads that are still to be measured."""
    peers = [peer.partition("=")[0] for peer in filter(None, args.peers.split(","))]
    for model in args.only or MODELS:
        for server in ("deps", *peers):
            types = args.types.split(",") if server == "deps" else ["FP32"]
            loads = [Load(server, model, datatype, clients) for datatype in types for clients in args.concurrencies]
            if wanted := [load for load in loads if report.lacks(load)]:
                yield model, server, wanted


def run_deps(report: Report, bundle: Path, loads: list[Load], bare: Bare, best: int, args: Any) -> None:
    """Start our server a few times, and measure its loads in the last."""
    model, size = loads[0].model, read_bundle(bundle).manifest.input.shape[1]
    command = [str(Path(sys.executable).with_name("deps-serve")), str(bundle), "--port", str(PORT), "--threads", "1"]
    command += ["--log-level", "error"]
    url = f"http://127.0.0.1:{PORT}/v2"
    ready_s = []
    for _ in range(STARTS - 1):
        with started(command, f"{url}/health/ready") as (_, seconds):
            ready_s.append(seconds)
    with started(command, f"{url}/health/ready") as (pid, seconds):
        ready_s.append(seconds)
        resident = resident_bytes(pid)
        for load in loads:
            name, tensor = (model, "input") if load.datatype == "FP32" else (f"{model}-uint8", "image")
            asked = f"{url}/models/{name}/infer"
            report.keep("loads", str(load), measure(pid, asked, tensor, load, size, bare, best, args))
        after, largest = resident_bytes(pid), largest_batch(url)
    alone, loaded = bare.resident_bytes(1), bare.resident_bytes(largest)
    facts = {
        "ready_s": [round(seconds, 2) for seconds in sorted(ready_s)],
        "resident_mb": {"started": round(resident / 1e6, 1), "after the loads": round(after / 1e6, 1)},
        "bare_resident_mb": {"batch 1": round(alone / 1e6, 1), f"batch {largest}": round(loaded / 1e6, 1)},
        "resident_ratio": {"started": round(resident / alone, 2), "after the loads": round(after / loaded, 2)},
    }
    report.keep("servers", f"deps {model}", facts)


def largest_batch(url: str) -> int:
    """Return the images of the largest batch that our server has run: memory is held against a bare session's of it."""
    with urllib.request.urlopen(f"{url}/models/stats", timeout=5) as answer:
        told = json.load(answer)["model_stats"]
    return max(int(batch["batch_size"]) for model in told for batch in model["batch_stats"])


def run_peer(report: Report, bundle: Path, loads: list[Load], bare: Bare, best: int, args: Any) -> None:
    """Start another server in its own environment and measure its loads; one that does not run is left out."""
    model, server, size = loads[0].model, loads[0].server, read_bundle(bundle).manifest.input.shape[1]
    python = dict(peer.split("=", 1) for peer in args.peers.split(","))[server]
    path = bundle / "models" / "only" / "fp32.onnx"
    command = [python, str(HERE / "peers.py"), server, str(path), str(size), str(PORT + 1)]
    url = f"http://127.0.0.1:{PORT + 1}/v2"
    facts: dict[str, Any]
    try:
        with started(command, f"{url}/health/ready") as (pid, ready_s):
            for load in loads:
                told = measure(pid, f"{url}/models/m/infer", "input", load, size, bare, best, args)
                report.keep("loads", str(load), told)
            facts = {"ready_s": [round(ready_s, 2)], "resident_mb": {"after the loads": resident_bytes(pid) / 1e6}}
    except (AssertionError, OSError) as error:
        facts = {"left_out": str(error)}
    report.keep("servers", f"{server} {model}", facts)


def verdicts(report: Report) -> Iterator[str]:
    """Yield a line for everything that is asked of us."""
    loads, servers = report.values["loads"], report.values["servers"]
    for name, told in loads.items():
        server, model, datatype, clients = name.split()
        wanted = ASKED.get(model, {}).get(int(clients))
        if server != "deps":
            continue
        if wanted is not None:
            yield _line(f"{name}: {told['ratio']} of the bare loop", told["ratio"] >= wanted, f"{wanted}")
        if (model, clients) == ("m32-narrow", "1"):
            floor_ms = told.get("floor_p50_ms", "an unknown part")
            parts = f"{floor_ms} of them by the floor, {told['p50_over_bare_ms']} over the bare call"
            yield _line(f"{name}: p50 {told['p50_ms']} ms, {parts}", told["p50_ms"] <= 0.4, "at most 0.4")
        if (model, datatype, clients) == ("m224", "FP32", "1"):
            over_ms = told["p50_over_bare_ms"]
            yield _line(f"{name}: p50 {over_ms} ms over the bare call", over_ms <= 1.0, "at most 1.0")
        for other, theirs in loads.items():
            if other.split()[1:] == name.split()[1:] and other != name:
                ahead = told["requests_per_s"] > theirs["requests_per_s"]
                yield _line(f"{name}: {told['requests_per_s']}/s", ahead, f"more than {other}'s")
    for name, facts in servers.items():
        if name.startswith("deps "):
            for when, ratio in facts["resident_ratio"].items():
                yield _line(f"{name}: memory, {when}, {ratio} of the bare session's", ratio <= 1.5, "at most 1.5")
            ready_s = facts["ready_s"][len(facts["ready_s"]) // 2]
            yield _line(f"{name}: ready after {ready_s} s", ready_s <= 1.0, "at most 1")


def _line(found: str, is_met: bool, wanted: str) -> str:
    return f"{'met   ' if is_met else 'MISSED'} {found} (asked: {wanted})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True, help="JSON; what it holds already is kept")
    parser.add_argument("--seconds", type=int, default=3, help="whole seconds for every round (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every load (default: 3)")
    parser.add_argument("--only", action="append", choices=tuple(MODELS), help="models; repeatable (default: all)")
    parser.add_argument("--types", default="FP32,UINT8")
    parser.add_argument("--concurrencies", type=lambda text: [int(n) for n in text.split(",")], default=CONCURRENCIES)
    parser.add_argument("--peers", default="", help="name=python,…: servers to run beside ours")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "deps-serving")
    args = parser.parse_args()
    report = Report(args.out)
    todo = list(missing(report, args))
    loads = sum(len(found) for *_, found in todo)
    seconds = loads * (1 + args.rounds * (args.seconds + 2 * BARE_S + 0.2)) + 12 * len(todo)
    print(f"{loads} loads to measure, about {seconds / 60:.0f} minutes", file=sys.stderr)
    for model, server, found in todo:
        space, arch = MODELS[model]()
        bundle = write_bundle(args.work / model, model, [("only", space, arch, None)])
        bare = Bare(bundle / "models" / "only" / "fp32.onnx", arch.resolution)
        if model not in report.values["bare"]:
            rates = {batch: round(bare.rate(batch, 2 * BARE_S), 1) for batch in BATCHES}
            flops = read_bundle(bundle).manifest.subnets[0].flops
            best = max(rates, key=lambda batch: rates[batch])
            report.keep("bare", model, {"images_per_s": rates, "best_batch": best, "flops": flops})
        best = report.values["bare"][model]["best_batch"]
        (run_deps if server == "deps" else run_peer)(report, bundle, found, bare, best, args)
    print("\n".join(verdicts(report)))


if __name__ == "__main__":
    main()
