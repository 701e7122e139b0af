"""Replace a bundle again and again while clients ask without a pause: how many requests are lost, and what it costs.

.venv/bin/python benchmarks/swap.py bundles/cpu-0.2ms > benchmarks/results/swap.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from deps.ground.provenance import provenance
from deps.serve.bundle import read_bundle
from deps.serve.protocol import HEADER_LENGTH

CLIENTS, SWAPS, QUIET_S = 8, 20, 3.0


class Clients:
    """Threads that ask as fast as they are answered, and remember what came back and when."""

    def __init__(self, url: str, model: str, body: bytes) -> None:
        self.url, self.model, self.body = url, model, body
        self.told: list[tuple[float, float, int | str]] = []
        """When it was asked, how long it took, and the status or the error."""
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _ask(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30, headers={HEADER_LENGTH: "0"}) as client:
            while not self.stop.is_set():
                start = time.perf_counter()
                try:
                    status: int | str = client.post(f"/v2/models/{self.model}/infer", content=self.body).status_code
                except httpx.HTTPError as error:
                    status = type(error).__name__
                self.told.append((start, time.perf_counter() - start, status))


def _summary(told: list[tuple[float, float, int | str]]) -> dict[str, Any]:
    times_ms = 1e3 * np.array([seconds for _, seconds, _ in told])
    return {
        "requests": len(told),
        "by_status": {str(status): count for status, count in Counter(status for *_, status in told).items()},
        "p50_ms": round(float(np.percentile(times_ms, 50)), 2),
        "p99_ms": round(float(np.percentile(times_ms, 99)), 2),
        "max_ms": round(float(times_ms.max()), 2),
    }


def measure(bundle: Path) -> dict[str, Any]:
    """Serve a copy of a bundle, and replace it by renaming while clients ask."""
    manifest = read_bundle(bundle).manifest
    body = np.zeros((1, *manifest.input.shape), np.float32).tobytes()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "bundle"
        shutil.copytree(bundle, place)
        words = [str(place), "--port", "0", "--watch", "0.1", "--threads", "1", "--json", "--quiet"]
        server = subprocess.Popen([sys.executable, "-m", "deps.serve.cli", *words], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        clients = Clients(url, manifest.name, body)
        with httpx.Client(base_url=url, timeout=30) as client:

            def swaps() -> int:
                for line in client.get("/metrics").text.splitlines():
                    if line.startswith("deps_model_swaps_total"):
                        return int(line.split()[-1])
                raise AssertionError

            time.sleep(QUIET_S)
            begin = time.perf_counter()
            for number in range(SWAPS):
                fresh, old = place.with_name("fresh"), place.with_name("old")
                shutil.copytree(bundle, fresh)
                place.rename(old)
                fresh.rename(place)
                while swaps() <= number:
                    time.sleep(0.02)
                shutil.rmtree(old)
            end = time.perf_counter()
        clients.stop.set()
        for thread in clients.threads:
            thread.join()
        server.terminate()
        code = server.wait(60)
    before = [told for told in clients.told if told[0] < begin]
    during = [told for told in clients.told if begin <= told[0] < end]
    return {
        "clients": CLIENTS,
        "swaps": SWAPS,
        "seconds_a_swap": round((end - begin) / SWAPS, 3),
        "before": _summary(before),
        "while_swapping": _summary(during),
        "lost": sum(status != 200 for *_, status in clients.told),
        "exit_code": code,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    args = parser.parse_args()
    print(json.dumps({"bundle": args.bundle.name, **measure(args.bundle), "provenance": provenance()}, indent=2))


if __name__ == "__main__":
    main()
