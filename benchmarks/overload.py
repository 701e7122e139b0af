"""Deadlines and overload, against a real server: what share of requests is answered in time, by whom, at what accuracy.

Open loop: requests come when they are planned to, whatever the server does, and an answer is in time when it arrives
within the deadline of the *planned* moment. The family is five once-for-all subnets at 128 pixels with random weights
and assigned accuracies (see models.py), pixels are sent as UINT8.

    .venv/bin/python benchmarks/overload.py --out benchmarks/results/overload.json --loads poisson,gamma     # 6 minutes
    .venv/bin/python benchmarks/overload.py --out … --loads bursty          # against each fixed subnet, 9 minutes
    .venv/bin/python benchmarks/overload.py --out … --loads overload --minutes 10 --only largest            # 11 minutes

A request that was not let in is refused at once; one that was let in and could not be answered in time after all is
dropped, and that is no refusal within milliseconds but a broken promise: both are told apart. Machines drift, so before
and after every load the same server is asked by 8 clients that can wait: loads are in units of what they got before,
and what was possible at all is judged by the mean of both. What the JSON holds already is not measured again, so a run
that was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import gc
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import numpy as np
import uvloop
from arrivals import Moments, gamma, mmpp
from models import FAMILY_NAMES, family_128, write_bundle
from servers import request_of, resident_bytes, started

from deps.ground.provenance import provenance

DEADLINE_MS = 100.0
PORT = 18600
CLIENTS = 8
CAPACITY_S = 3.0
DROPPED = b"no answer was possible"
SUBNET = re.compile(rb'"subnet": "([^"]+)"')


@dataclass
class Tally:
    """What came of the requests of one load."""

    planned: int = 0
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    subnets: collections.Counter[str] = field(default_factory=collections.Counter)
    latencies_ms: list[float] = field(default_factory=list)
    refusals_ms: list[float] = field(default_factory=list)
    """From sending to the refusal of a request that was not let in."""

    drops_ms: list[float] = field(default_factory=list)
    """From sending until a request that was let in was dropped."""

    in_time: collections.Counter[str] = field(default_factory=collections.Counter)
    unanswered: int = 0


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport | None = None
        self.planned = self.sent = 0.0
        self.is_busy = False
        self._came = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, planned: float) -> None:
        assert self.transport is not None
        self.planned, self.is_busy = planned, True
        self.sent = time.perf_counter()
        self.transport.write(self.pool.request)

    def data_received(self, data: bytes) -> None:
        self._came += data
        end = self._came.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._came[:end].lower()
        at = head.index(b"content-length:") + 15
        length = int(head[at : head.find(b"\r", at) if head.find(b"\r", at) > 0 else None])
        if len(self._came) < end + 4 + length:
            return
        body, self._came, self.is_busy = self._came[end + 4 :], b"", False
        self.pool.answered(self, int(head[9:12]), body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.lost(self)


class Pool:
    """Connections, as many as are needed at once."""

    def __init__(self, host: str, port: int, request: bytes) -> None:
        self.host, self.port, self.request = host, port, request
        self.free: collections.deque[Client] = collections.deque()  # the longest unused first: none rests too long
        self.tally = Tally()
        self.pending = 0
        self.opened = 0

    async def open(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            _, client = await loop.create_connection(lambda: Client(self), self.host, self.port)
            self.free.append(client)
        self.opened += count

    def send(self, planned: float) -> None:
        self.tally.planned += 1
        if not self.free:
            self.tally.unanswered += 1  # more under way than the limits of anybody allow
            return
        self.pending += 1
        self.free.popleft().ask(planned)

    def answered(self, client: Client, status: int, body: bytes) -> None:
        now = time.perf_counter()
        tally = self.tally
        tally.statuses[status] += 1
        self.pending -= 1
        self.free.append(client)
        latency_ms = 1e3 * (now - client.planned)
        if status == 200:
            found = SUBNET.search(body)
            assert found is not None
            name = found[1].decode()
            tally.subnets[name] += 1
            tally.latencies_ms.append(latency_ms)
            if latency_ms <= DEADLINE_MS:
                tally.in_time[name] += 1
        else:
            told_ms = tally.drops_ms if DROPPED in body else tally.refusals_ms
            told_ms.append(1e3 * (now - client.sent))

    def lost(self, client: Client) -> None:
        if client.is_busy:
            self.tally.unanswered += 1
            self.pending -= 1
        else:
            self.free.remove(client)


async def replay(pool: Pool, moments: Moments) -> Tally:
    """Send requests at their moments; wait for the last answer."""
    pool.tally = Tally()
    gc.collect()
    gc.disable()
    start = time.perf_counter() + 0.05
    for moment in moments:
        planned = start + float(moment)
        while (ahead := planned - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)  # at most a millisecond too long; polling would take a core from the server
        pool.send(planned)
        if pool.tally.planned % 64 == 0:
            await asyncio.sleep(0)
    end = time.perf_counter() + 10
    while pool.pending and time.perf_counter() < end:
        await asyncio.sleep(0.01)
    gc.enable()
    return pool.tally


async def closed_loop(pool: Pool, clients: int, seconds: float) -> float:
    """Return requests a second that so many clients get when each asks again at once."""
    pool.tally = Tally()
    busy = [pool.free.popleft() for _ in range(clients)]
    end = time.perf_counter() + seconds
    for client in busy:
        pool.pending += 1
        client.ask(time.perf_counter())
    while time.perf_counter() < end:
        while pool.pending < clients and pool.free:
            pool.pending += 1
            pool.free.popleft().ask(time.perf_counter())
        await asyncio.sleep(0.0005)
    done = pool.tally.statuses[200]
    while pool.pending:
        await asyncio.sleep(0.01)
    return done / seconds


def told(tally: Tally, seconds: float, accuracies: dict[str, float]) -> dict[str, Any]:
    """Return the figures of one load."""
    good = sum(tally.in_time.values())
    answered = sum(tally.statuses.values())
    return {
        "requests": tally.planned,
        "rate_per_s": round(tally.planned / seconds, 1),
        "in_time": round(good / max(1, tally.planned), 4),
        "in_time_per_s": round(good / seconds, 1),
        "refused_at_once": round(len(tally.refusals_ms) / max(1, tally.planned), 4),
        "dropped": round(len(tally.drops_ms) / max(1, tally.planned), 4),
        "late": round((tally.statuses[200] - good) / max(1, tally.planned), 4),
        "other_errors": answered - tally.statuses[200] - tally.statuses[503],
        "unanswered": tally.unanswered,
        "mean_accuracy": round(sum(accuracies[n] * c for n, c in tally.in_time.items()) / max(1, good), 4),
        "subnets": dict(tally.subnets),
        "latency_ms": _percentiles(tally.latencies_ms),
        "refusal_ms": _percentiles(tally.refusals_ms),
        "refused_within_5_ms": round(sum(ms <= 5 for ms in tally.refusals_ms) / max(1, len(tally.refusals_ms)), 4),
        "drop_ms": _percentiles(tally.drops_ms),
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 99, 100)} if values else {}


def request_bytes(model: str, timeout_ms: float | None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        request = request_of(128, "UINT8", Path(folder), "image")
        body = request.path.read_bytes()
    deadline = "" if timeout_ms is None else f"Deps-Timeout-Ms: {timeout_ms:g}\r\n"
    head = (
        f"POST /v2/models/{model}-uint8/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        f"Inference-Header-Content-Length: {request.json_length}\r\n{deadline}\r\n"
    )
    return head.encode() + body


class Plan(NamedTuple):
    """One load."""

    subnet: str
    """That is pinned; empty for the family."""

    moments: Callable[[float], Moments]
    """When requests come, by the capacity that was measured right before."""


async def capacity_of(pool: Pool, seconds: float) -> float:
    """Return requests a second that 8 clients get of the most accurate subnet, with requests that can wait."""
    urgent, pool.request = pool.request, request_bytes("family", None)
    await closed_loop(pool, CLIENTS, 0.5)
    found = await closed_loop(pool, CLIENTS, seconds)
    pool.request = urgent
    return found


async def run(url: str, pid: int, plan: Plan | None, seconds: float, accuracies: dict[str, float]) -> dict[str, Any]:
    """Measure one load on a running server, with the server's capacity right before and right after; or that alone."""
    place = urlsplit(url)
    assert place.hostname is not None
    assert place.port is not None
    pool = Pool(place.hostname, place.port, request_bytes("family", DEADLINE_MS))
    await pool.open(400)
    before = await capacity_of(pool, CAPACITY_S)
    if plan is None:
        return {"requests_per_s": round(before, 1)}
    moments = plan.moments(before)
    await replay(pool, gamma(50, 1, 1, np.random.default_rng(9)))
    resident_mb: list[float] = []

    async def watch() -> None:
        while True:
            resident_mb.append(round(resident_bytes(pid) / 1e6, 1))
            await asyncio.sleep(seconds / 10)

    watching = asyncio.ensure_future(watch())
    tally = await replay(pool, moments)
    watching.cancel()
    after = await capacity_of(pool, CAPACITY_S)
    beside = {
        "seconds": seconds,
        "capacity_per_s": [round(before, 1), round(after, 1)],
        "possible": round(possible(moments, (before + after) / 2), 4),
        "resident_mb": resident_mb,
    }
    return told(tally, seconds, accuracies) | beside


def possible(moments: Moments, capacity: float) -> float:
    """Return the share of requests that a server can answer in time that needs 1 / capacity for each, and no more.

    First come, first served, without those that would be late: no order does better where all have the same time.
    """
    free, answered = 0.0, 0
    for moment in moments:
        done = max(free, moment) + 1 / capacity
        if done <= moment + DEADLINE_MS / 1e3:
            free, answered = done, answered + 1
    return answered / max(1, len(moments))


def verdicts(loads: dict[str, Any]) -> Iterator[str]:
    """Yield a line for everything that is asked of a load."""
    fixed = [(name, told) for name, told in loads.items() if name.startswith("bursty") and not name.endswith("family")]
    for name, told in loads.items():
        kind, _, subnet = name.partition(" ")[0], *name.rpartition(" ")[1:]
        if kind == "capacity":
            continue
        if kind == "bursty" and subnet == "family":
            trace = name.removesuffix("family")
            rivals = [t["mean_accuracy"] for n, t in fixed if n.startswith(trace) and t["in_time"] > 0.99]
            yield _line(name, "in time", told["in_time"], told["in_time"] > 0.99, "more than 0.99")
            best = max(rivals, default=0.0)
            yield _line(name, "mean accuracy", told["mean_accuracy"], told["mean_accuracy"] > best, f"above {best}")
        elif subnet == "family":
            yield _line(name, "in time", told["in_time"], told["in_time"] > 0.99, "more than 0.99")
        elif kind != "bursty":
            share, wanted = round(told["in_time"] / told["possible"], 3), 0.90 if kind == "overload" else 0.95
            yield _line(name, "in time of what capacity allows", share, share >= wanted, f"at least {wanted}")
        if told["refusal_ms"]:
            slowest = told["refusal_ms"]["p99"]
            yield _line(name, "p99 of refusals, ms", slowest, slowest <= 5, "at most 5")
        wrong = told["other_errors"] + told["unanswered"]
        yield _line(name, "other errors or unanswered", wrong, wrong == 0, "none")


def _line(name: str, what: str, found: float, is_met: bool, wanted: str) -> str:
    return f"{'met   ' if is_met else 'MISSED'} {name}: {what} {found} (asked: {wanted})"


def plans(args: argparse.Namespace, capacity: float, fastest: float) -> dict[str, Plan]:
    """Return what is measured, by name.

    Args:
        args: of the command line.
        capacity: of the largest subnet at the start, for traces that several servers must meet alike.
        fastest: capacity of the smallest.
    """
    seconds = 60 * args.minutes
    found: dict[str, Plan] = {}

    def add(name: str, subnet: str, share: float, cv2: float, seed: int) -> None:
        found[f"{name} {subnet or 'family'}"] = Plan(
            subnet, lambda capacity: gamma(share * capacity, seconds, cv2, np.random.default_rng(seed))
        )

    for kind, cv2 in (("poisson", 1.0), ("gamma", 4.0)):
        if kind in args.loads:
            for share in (0.9, 1.3):
                for subnet in ("", "largest"):
                    add(f"{kind} {share}", subnet, share, cv2, int(100 * share))
    if "bursty" in args.loads:
        traces = {
            "mmpp": mmpp(0.5 * capacity, 0.6 * fastest, seconds, 2.0, 0.5, np.random.default_rng(6)),
            "gamma cv2=16": gamma(0.9 * capacity, seconds, 16.0, np.random.default_rng(5)),
        }
        for trace, moments in traces.items():
            for subnet in ("", *FAMILY_NAMES):
                found[f"bursty {trace} {subnet or 'family'}"] = Plan(subnet, lambda _, moments=moments: moments)
    if "overload" in args.loads:
        for subnet in ("largest", ""):
            add("overload 3.0", subnet, 3.0, 1.0, 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--loads", type=lambda text: text.split(","), default=["poisson", "gamma", "bursty"])
    parser.add_argument("--minutes", type=float, default=0.5, help="of every load (default: 0.5)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "deps-serving")
    parser.add_argument("--only", help="measure only loads whose name holds this")
    args = parser.parse_args()
    bundle = write_bundle(args.work / "family", "family", family_128())
    accuracies = {name: accuracy for name, _, _, accuracy in family_128()}
    report: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {"loads": {}}

    def measured(name: str, subnet: str, plan: Plan | None) -> dict[str, Any]:
        if name not in report["loads"]:
            command = [str(Path(sys.executable).with_name("deps-serve")), str(bundle), "--port", str(PORT)]
            command += ["--threads", "1", "--log-level", "error", *(["--subnet", subnet] if subnet else [])]
            with started(command, f"http://127.0.0.1:{PORT}/v2/health/ready") as (pid, _):
                found = uvloop.run(run(f"http://127.0.0.1:{PORT}", pid, plan, 60 * args.minutes, accuracies))
            report["loads"][name] = found
            report["accuracies"], report["provenance"] = accuracies, provenance()
            args.out.write_text(json.dumps(report, indent=1) + "\n")
        print(json.dumps({name: report["loads"][name]}), file=sys.stderr, flush=True)
        return dict(report["loads"][name])

    capacity, fastest = (
        measured(f"capacity {subnet}", subnet, None)["requests_per_s"] for subnet in ("largest", "smallest")
    )
    wanted = {name: plan for name, plan in plans(args, capacity, fastest).items() if (args.only or "") in name}
    left = sum(name not in report["loads"] for name in wanted)
    print(f"about {left * (args.minutes + (2 * CAPACITY_S + 6) / 60):.0f} minutes", file=sys.stderr)
    for name, plan in wanted.items():
        measured(name, plan.subnet, plan)
    print("\n".join(verdicts(report["loads"])))


if __name__ == "__main__":
    main()
