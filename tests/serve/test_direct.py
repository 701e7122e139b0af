"""Requests that are answered without a task say the same, in the same bytes, as those that have one."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from deps.serve.access import Access
from deps.serve.front.acceptor import Acceptor
from deps.serve.service import ServeOptions
from running import Running, running

TOKEN = "a-token-of-ours"


@pytest.fixture(scope="module")
def pair(make_bundle: Callable[..., Path]) -> Iterator[tuple[Running, Running]]:
    """Two servers of one bundle: as it is, and one that gives every request a task."""
    options, access = ServeOptions(num_threads=1), Access(token=TOKEN)
    with contextlib.ExitStack() as stack:
        direct = stack.enter_context(running(make_bundle(), options=options, access=access))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        start = Acceptor.__init__
        patch.setattr(Acceptor, "__init__", lambda self, app, limits, screen, _: start(self, app, limits, screen))
        tasks = stack.enter_context(running(make_bundle(), options=options, access=access))
        yield direct, tasks


def talk(server: Running, content: bytes) -> bytes:
    """Send, say that nothing more will come, and return all that comes back, but for the time."""
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(content)
        came = b""
        while piece := client.recv(1 << 16):
            came += piece
    return re.sub(rb"date: [^\r]*\r\n", b"", came)


def binary_request(count: int, **keys: Any) -> tuple[bytes, int]:
    """Return a body with a binary tensor, and the length of its JSON."""
    images = np.random.default_rng(count).normal(size=(count, 1, 8, 8)).astype(np.float32)
    tensor = {"name": "input", "shape": [count, 1, 8, 8], "datatype": "FP32"}
    tensor |= {"parameters": {"binary_data_size": images.nbytes}}
    text = json.dumps({"inputs": [tensor], **keys}).encode()
    return text + images.tobytes(), len(text)


def whole_request(*headers: str, **keys: Any) -> bytes:
    """Return a request for one image that may pass and is in order."""
    body, length = binary_request(1, **keys)
    lines = ["POST /v2/models/tiny/infer HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", *headers]
    lines += [f"Inference-Header-Content-Length: {length}", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


KEYS = st.sampled_from(
    [
        {},
        {"parameters": {"binary_data_output": True}},
        {"parameters": {"subnet": "small"}, "id": "a7"},
        {"parameters": {"subnet": "absent"}},
        {"parameters": {"timeout": 9_000_000, "binary_data_output": True}, "id": "é"},
        {"outputs": [{"name": "logits", "parameters": {"classification": 3}}]},
        {"outputs": [{"name": "logits", "parameters": {"classification": 2, "binary_data": True}}]},
        {"outputs": [{"name": "absent"}]},
        {"unknown": 1},
    ]
)
HEADERS = st.sampled_from(
    [
        "Accept-Encoding: identity",
        "Accept-Encoding: gzip",
        "Content-Encoding: identity",
        "Content-Encoding: gzip",
        "Content-Encoding: br",
        "Deps-Timeout-Ms: 5000",
        "Deps-Timeout-Ms: soon",
        "Expect: 100-continue",
        "Origin: http://elsewhere",
        "Inference-Header-Content-Length: 9999999",
        "X-Any: thing",
    ]
)
PATHS = st.sampled_from(
    [
        *["/v2/models/tiny/infer"] * 6,
        "/v2/models/tiny/infer/",
        "/v2/models/tiny/versions/1/infer?x=1",
        "/v2/models/tiny/versions/2/infer",
        "/v2/models/t%69ny/infer",
        "/v2/models/tiny-uint8/infer",
        "/v2/models/absent/infer",
        "/v2/models/%ff/infer",
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw a request for inference, often malformed."""
    body, length = binary_request(draw(st.sampled_from([1, 1, 2, 3])), **draw(KEYS))
    lines = [f"Inference-Header-Content-Length: {length}"] if draw(st.integers(0, 5)) else []
    if draw(st.integers(0, 4)) == 0:
        body, lines = json.dumps({"inputs": draw(st.sampled_from([[], [1], None, {"a": 1}]))}).encode(), []
    if draw(st.integers(0, 5)) == 0:
        body = body[: draw(st.integers(0, len(body)))] + draw(st.binary(max_size=4))
    lines += draw(st.lists(HEADERS, max_size=2, unique=True))
    lines.append("Host: x")
    if draw(st.integers(0, 7)):
        lines.append(f"Authorization: Bearer {TOKEN}")
    if draw(st.integers(0, 5)) == 0:
        lines.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    else:
        lines.append(f"Content-Length: {len(body)}")
    method = draw(st.sampled_from(["POST"] * 8 + ["GET", "HEAD"]))
    version = draw(st.sampled_from(["1.1"] * 4 + ["1.0"]))
    return f"{method} {draw(PATHS)} HTTP/{version}\r\n".encode() + "\r\n".join([*lines, "", ""]).encode() + body


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(st.lists(requests(), min_size=1, max_size=3))
def test_same_bytes_with_and_without_a_task(pair: tuple[Running, Running], asked: list[bytes]):
    """Whether a request has a task is nobody's business; pipelined ones are answered in order either way."""
    last = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    direct, tasks = (talk(server, b"".join([*asked, last])) for server in pair)
    assert direct == tasks


def test_no_task_is_made_for_what_carries_the_load(pair: tuple[Running, Running]):
    """Otherwise the comparison above would compare the same code."""
    request = whole_request("Connection: close")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deps.serve.inference.Inference.__call__", None)
        direct, tasks = (talk(server, request) for server in pair)
    assert direct.startswith(b"HTTP/1.1 200 ")
    assert tasks.startswith(b"HTTP/1.1 500 ")


def test_both_ways_count_the_same(pair: tuple[Running, Running]):
    """Answers and refusals, by what became of each."""

    def counts(server: Running) -> tuple[int, int, dict[int, int]]:
        account = server.repository.served["tiny"].statistics
        return account.success.count, account.failed.count, dict(account.refusals)

    before = [counts(server) for server in pair]
    for keys in ({}, {"unknown": 1}, {"parameters": {"subnet": "absent"}}, {"parameters": {"timeout": 1}}):
        request = whole_request("Connection: close", **keys)
        for server in pair:
            talk(server, request)
    after = [counts(server) for server in pair]
    grown = [
        (now[0] - then[0], now[1] - then[1], {status: now[2][status] - then[2].get(status, 0) for status in (400, 404)})
        for then, now in zip(before, after, strict=True)
    ]
    assert grown[0] == grown[1]
    assert grown[0][:2] == (1, 3)


def test_stop_answers_what_is_under_way(make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    """The answer says that the connection ends with it; the lease on the service is given back."""
    request = whole_request()
    came: list[bytes] = []
    with running(make_bundle(), options=ServeOptions(num_threads=1)) as server:
        engine, is_running, release = server.engine, threading.Event(), threading.Event()
        infer = type(engine).infer

        def held(self: Any, batch: Any) -> Any:
            is_running.set()
            assert release.wait(20)
            return infer(self, batch)

        monkeypatch.setattr(type(engine), "infer", held)
        monkeypatch.setattr("deps.serve.runner.LEND_S", 0.0)  # in the engine's thread: the loop must go on
        asking = threading.Thread(target=lambda: came.append(talk(server, request)))
        asking.start()
        assert is_running.wait(20)
        threading.Timer(0.3, release.set).start()
    asking.join(20)
    assert came[0].startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in came[0]


def test_client_that_hangs_up_gives_its_lease_back(make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    """Its job leaves the queue, it is counted as gone, and a swap need not wait for it."""
    request = whole_request()
    with running(make_bundle(), options=ServeOptions(num_threads=1)) as server:
        engine, release = server.engine, threading.Event()
        infer = type(engine).infer
        monkeypatch.setattr(type(engine), "infer", lambda self, batch: release.wait(20) and infer(self, batch))
        monkeypatch.setattr("deps.serve.runner.LEND_S", 0.0)
        served = server.repository.served["tiny"]
        loaded = served.lease()
        host, port = server.address.split(":")
        with contextlib.ExitStack() as stack:
            for _ in range(3):  # one runs, the others wait
                client = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
                client.sendall(request)
            _wait_until(lambda: loaded.leases == 3 and server.service.stats()["queue_requests"] == 2)
        _wait_until(lambda: served.statistics.cancelled == 3)
        assert loaded.leases == 0
        assert server.service.stats()["queue_requests"] == 0
        release.set()


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
