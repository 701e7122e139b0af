"""The server, over a real socket: NVIDIA's client and httpx, which nobody here wrote, get the right answers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gzip
import io
import json
import socket
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from deps.serve.http import create_app
from deps.serve.server import listen, url_of
from deps.serve.service import ServeOptions, Service

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gevent warns about its own internals when it is imported
    import tritonclient.http as triton

MAX_BODY_BYTES = 200_000
INFER = "/v2/models/tiny/infer"


@dataclass(frozen=True)
class Running:
    """A server in this process, on a port of its own."""

    url: str
    service: Service
    client: httpx.Client


@contextlib.contextmanager
def _running(bundle: Path, options: ServeOptions) -> Iterator[Running]:
    bound = listen("127.0.0.1", 0)
    service = Service.open(bundle, options)
    app = create_app(service, max_body_bytes=MAX_BODY_BYTES)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        with httpx.Client(base_url=url_of(bound), timeout=20) as client:
            while not server.started:
                time.sleep(0.005)
            yield Running(url_of(bound), service, client)
    finally:
        server.should_exit = True
        thread.join(20)
        bound.close()
    assert not thread.is_alive()
    assert not service.is_ready


@pytest.fixture(scope="module")
def running(make_bundle: Callable[..., Path]) -> Iterator[Running]:
    with _running(make_bundle(), ServeOptions(max_batch=4, num_threads=1)) as server:
        yield server


@pytest.fixture
def client(running: Running) -> httpx.Client:
    return running.client


@pytest.fixture(scope="module")
def triton_client(running: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(running.url.removeprefix("http://"), concurrency=4) as client:
        yield client


def _json_request(images: np.ndarray, **keys) -> dict:
    tensor = {"name": "input", "shape": list(images.shape), "datatype": "FP32", "data": images.ravel().tolist()}
    return {"inputs": [tensor], **keys}


def _png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


# NVIDIA's client


@pytest.mark.parametrize("sends_binary", [False, True])
@pytest.mark.parametrize("wants_binary", [False, True])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_nvidias_client_gets_the_right_logits(
    triton_client, tiny, images, sends_binary: bool, wants_binary: bool, compression: str | None
):
    """JSON and binary tensors, in and out, plain and compressed: every combination gives numpy's numbers."""
    tensor = triton.InferInput("input", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=sends_binary)
    answer = triton_client.infer(
        "tiny",
        [tensor],
        outputs=[triton.InferRequestedOutput("logits", binary_data=wants_binary)],
        request_id="a7",
        request_compression_algorithm=compression,
    )
    np.testing.assert_allclose(answer.as_numpy("logits"), tiny.logits(images), rtol=1e-4, atol=1e-4)
    assert answer.get_response()["id"] == "a7"
    assert answer.get_response()["parameters"]["subnet"] == "large"


def test_nvidias_client_needs_to_name_no_output(triton_client, tiny, images):
    """Then it asks for all outputs in binary form."""
    tensor = triton.InferInput("input", [1, 1, 8, 8], "FP32")
    tensor.set_data_from_numpy(images[:1])
    answer = triton_client.infer("tiny", [tensor], model_version="1", timeout=10_000_000)
    np.testing.assert_allclose(answer.as_numpy("logits"), tiny.logits(images[:1]), rtol=1e-4, atol=1e-4)


def test_nvidias_client_reads_health_and_metadata(triton_client):
    """What a load balancer and a generic client ask before they send anything."""
    assert triton_client.is_server_live()
    assert triton_client.is_server_ready()
    assert triton_client.is_model_ready("tiny")
    assert triton_client.is_model_ready("tiny", "1")
    assert not triton_client.is_model_ready("other")
    assert not triton_client.is_model_ready("tiny", "2")
    assert "binary_tensor_data" in triton_client.get_server_metadata()["extensions"]
    assert triton_client.get_model_metadata("tiny")["inputs"][0]["shape"] == [-1, 1, 8, 8]
    (entry,) = triton_client.get_model_repository_index()
    assert (entry["name"], entry["version"], entry["state"]) == ("tiny", "1", "READY")


def test_nvidias_client_understands_classification(triton_client, tiny, images):
    """The extension's text, ``value:index:label``, agrees with numpy's order."""
    tensor = triton.InferInput("input", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    for wants_binary in (True, False):
        output = triton.InferRequestedOutput("logits", binary_data=wants_binary, class_count=2)
        texts = triton_client.infer("tiny", [tensor], outputs=[output]).as_numpy("logits")
        best = [[int((text.decode() if wants_binary else text).split(":")[1]) for text in row] for row in texts]
        np.testing.assert_array_equal(best, np.argsort(-tiny.logits(images), axis=1)[:, :2])


def test_nvidias_client_reads_our_errors(triton_client, images):
    """It takes every status but 200 for an error and reads ``error`` from the body."""
    tensor = triton.InferInput("image", [1, 1, 8, 8], "FP32")
    tensor.set_data_from_numpy(images[:1])
    with pytest.raises(triton.InferenceServerException, match=r"name is 'image'; expected 'input'") as caught:
        triton_client.infer("tiny", [tensor])
    assert caught.value.status() == "400"
    with pytest.raises(triton.InferenceServerException, match="there is no model 'other'; expected 'tiny'"):
        triton_client.get_model_metadata("other")


# Any client


def test_raw_body_is_one_tensor(client, tiny, images):
    """``curl --data-binary @image.bin`` needs no JSON."""
    answer = client.post(INFER, content=images.tobytes(), headers={"Inference-Header-Content-Length": "0"})
    length = int(answer.headers["Inference-Header-Content-Length"])
    logits_NV = np.frombuffer(answer.content[length:], "<f4").reshape(-1, 10)
    np.testing.assert_allclose(logits_NV, tiny.logits(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("slash", ["", "/"])
def test_every_address_is_answered_with_and_without_a_slash(client, images, slash: str):
    """Clients send both, and a redirect would lose a POST's body."""
    for path in ("/v2", "/v2/models/tiny", "/v2/models/tiny/versions/1"):
        assert client.get(path + slash).status_code == 200
        assert client.get(path + slash).json()["name"] in ("deps", "tiny")
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready", "/v2/models/tiny/versions/1/ready"):
        answer = client.get(path + slash)
        assert (answer.status_code, answer.content) == (200, b"")
    for path in (INFER, "/v2/models/tiny/versions/1/infer"):
        assert client.post(path + slash, json=_json_request(images[:1])).status_code == 200
    assert client.post("/v2/repository/index" + slash).json()[0]["state"] == "READY"


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/", 404, "there is nothing at /"),
        ("GET", "/v3", 404, "there is nothing at /v3"),
        ("GET", "/v2/models/other", 404, "there is no model 'other'; expected 'tiny'"),
        ("GET", "/v2/models/tiny/versions/2", 404, "has no version '2'; expected '1'"),
        ("POST", "/v2/models/other/infer", 404, "there is no model 'other'"),
        ("POST", "/v2/models/tiny/versions/0/infer", 404, "has no version '0'"),
        ("GET", INFER, 405, "GET is not answered at /v2/models/tiny/infer; expected POST"),
        ("DELETE", "/v2/models/tiny", 405, "DELETE is not answered"),
        ("POST", INFER, 400, "is not JSON"),
    ],
)
def test_errors_have_the_protocols_shape(client, method: str, path: str, status: int, said: str):
    """``{"error": text}`` everywhere: other shapes break NVIDIA's client."""
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert said in answer.json()["error"]


def test_model_that_is_not_here_is_not_ready_without_a_body(client):
    """Ready endpoints answer with a status alone."""
    answer = client.get("/v2/models/other/ready")
    assert (answer.status_code, answer.content) == (404, b"")


@pytest.mark.parametrize("nested", [b'{"inputs":' * 15_000, b"[" * 150_000])
def test_deep_json_is_refused_and_the_server_lives(client, nested: bytes):
    """Nesting like this ends one well-known server."""
    assert client.post(INFER, content=nested).status_code == 400
    assert client.get("/v2/health/live").status_code == 200


def test_body_over_the_limit_is_refused_unread(running: Running):
    """Peers accept an announced 8 GB; here the announcement is enough to refuse it."""
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000000\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413 ")
    assert '{"error": "the body is too large; expected at most 200 kB' in answer


def test_body_that_grows_over_the_limit_is_refused(client):
    """Without an announced length, what arrives is counted."""
    answer = client.post(INFER, content=(bytes(10_000) for _ in range(40)))
    assert answer.status_code == 413


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_body_is_limited_by_what_it_becomes(client, images, encoding: str, compress):
    """A zip bomb is a body over the limit, and half a stream is no body."""
    headers = {"Content-Encoding": encoding}
    good = json.dumps(_json_request(images[:1])).encode()
    assert client.post(INFER, content=compress(good), headers=headers).status_code == 200
    assert client.post(INFER, content=compress(bytes(10**7)), headers=headers).status_code == 413
    for broken in (compress(good)[:-5], compress(good) + b"x", b"not compressed"):
        answer = client.post(INFER, content=broken, headers=headers)
        assert answer.status_code == 400
        assert encoding in answer.json()["error"]


def test_unknown_encoding_is_refused(client):
    """Guessing would hand garbage to the parser."""
    assert client.post(INFER, content=b"{}", headers={"Content-Encoding": "br"}).status_code == 415


# Pictures


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_picture_is_classified_as_its_pixels_are(client, tiny, kind: str):
    """Decoding, normalising, inferring and ranking, against numpy on the decoded pixels."""
    content = _png(np.random.default_rng(3).integers(0, 256, (8, 8), dtype=np.uint8), kind)
    pixels = np.asarray(Image.open(io.BytesIO(content)), np.float64)
    logits_V = tiny.logits(((pixels / 255 - 0.5) / 0.25)[None, None])[0]
    shares_V = np.exp(logits_V) / np.exp(logits_V).sum()
    headers = {"Content-Type": f"image/{kind.lower()}"}
    answer = client.post("/v2/models/tiny/classify?top=3", content=content, headers=headers).json()
    best = np.argsort(-logits_V)[:3]
    assert [entry["index"] for entry in answer["classes"]] == best.tolist()
    assert [entry["label"] for entry in answer["classes"]] == [f"digit {index}" for index in best]
    np.testing.assert_allclose([entry["score"] for entry in answer["classes"]], shares_V[best], atol=1e-4)
    assert answer["parameters"]["precision"] == "fp32"


@pytest.mark.parametrize(
    ("kind", "content", "query", "status", "said"),
    [
        ("image/gif", b"GIF89a", "", 415, "Content-Type is image/gif; expected image/jpeg or image/png"),
        ("", b"x", "", 415, "Content-Type is missing"),
        ("image/png", b"x", "", 415, "expected a JPEG or PNG file"),
        ("image/png", _png(np.zeros((50, 50), np.uint8))[:60], "", 400, "the picture is damaged"),
        ("image/png", _png(np.zeros((8, 8), np.uint8)), "?top=0", 400, "top is '0'"),
        ("image/png", _png(np.zeros((8, 8), np.uint8)), "?top=-1", 400, "top is '-1'"),
        ("image/png", bytes(MAX_BODY_BYTES + 1), "", 413, "the body is too large"),
    ],
)
def test_wrong_picture_is_refused(client, kind: str, content: bytes, query: str, status: int, said: str):
    """Each mistake has its status, and a sentence."""
    answer = client.post(f"/v2/models/tiny/classify{query}", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert said in answer.json()["error"]


# Under load, and at the end


def test_many_clients_at_once_get_their_own_answers(running: Running, tiny, images):
    """Requests are joined into batches behind the scenes; no row may go to another's connection."""
    expected_NV = tiny.logits(images)

    async def ask_all() -> list[np.ndarray]:
        async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:

            async def ask(row: int) -> np.ndarray:
                answer = await client.post(INFER, json=_json_request(images[row : row + 1]))
                return np.array(answer.json()["outputs"][0]["data"])

            return await asyncio.gather(*(ask(number % len(images)) for number in range(140)))

    for number, logits_V in enumerate(asyncio.run(ask_all())):
        np.testing.assert_allclose(logits_V, expected_NV[number % len(images)], rtol=1e-4, atol=1e-4)


@pytest.fixture
def stalled(make_bundle: Callable[..., Path]) -> Iterator[tuple[Running, threading.Event, list[int]]]:
    """A server of one queue place a batch, whose engine waits at a gate; and the batches it ran."""
    with _running(make_bundle(), ServeOptions(max_batch=2, max_queue_images=2, num_threads=1)) as server:
        gate, batches, engine = threading.Event(), [], server.service._runner.engines[0]
        infer = engine.infer

        def gated(batch_NCHW: np.ndarray) -> np.ndarray:
            batches.append(len(batch_NCHW))
            assert gate.wait(20)
            return infer(batch_NCHW)

        engine.infer = gated
        try:
            yield server, gate, batches
        finally:
            gate.set()


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_full_queue_is_503_with_retry_after_and_accepted_requests_are_answered(stalled, images):
    """Back-pressure before memory grows; nobody who was let in is dropped."""
    server, gate, batches = stalled
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.client.post, INFER, json=_json_request(images[:1]))
        _wait_until(lambda: batches == [1])
        second = pool.submit(server.client.post, INFER, json=_json_request(images[:2]))
        _wait_until(lambda: server.service.stats()["queue_images"] == 2)
        refused = server.client.post(INFER, json=_json_request(images[:1]))
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert "2 images wait already" in refused.json()["error"]
        gate.set()
        assert [first.result().status_code, second.result().status_code] == [200, 200]


def test_client_that_hangs_up_while_waiting_costs_nothing(stalled, images):
    """Its images never reach the engine."""
    server, gate, batches = stalled
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.client.post, INFER, json=_json_request(images[:1]))
        _wait_until(lambda: batches == [1])
        with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=server.url, timeout=0.2) as impatient:
            impatient.post(INFER, json=_json_request(images[:2]))
        _wait_until(lambda: server.service.stats()["queue_images"] == 0)
        gate.set()
        assert first.result().status_code == 200
        assert server.client.post(INFER, json=_json_request(images[:1])).status_code == 200
    assert batches == [1, 1]


def test_engine_failure_is_a_500_with_its_reason_and_the_server_lives(stalled, images):
    """The client learns it was not its request, and the next one is answered."""
    from deps.ground.errors import EngineError

    server, gate, _ = stalled
    gate.set()
    engine = server.service._runner.engines[0]
    working = engine.infer

    def fail(batch_NCHW: np.ndarray) -> np.ndarray:
        raise EngineError("the GPU is gone")

    engine.infer = fail
    answer = server.client.post(INFER, json=_json_request(images[:1]))
    assert (answer.status_code, answer.json()) == (500, {"error": "the GPU is gone"})
    engine.infer = working
    assert server.client.post(INFER, json=_json_request(images[:1])).status_code == 200


def test_error_of_our_own_is_a_500_without_its_inside(stalled, images):
    """A bug must not tell strangers about the machine, and must not end the server."""
    server, gate, _ = stalled
    gate.set()
    engine = server.service._runner.engines[0]
    working = engine.infer

    def break_down(batch_NCHW: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("/secret/path")

    engine.infer = break_down
    answer = server.client.post(INFER, json=_json_request(images[:1]))
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server met an error of its own (ZeroDivisionError); see its log"}
    engine.infer = working
    assert server.client.post(INFER, json=_json_request(images[:1])).status_code == 200


def test_draining_server_is_not_ready_and_still_answers(stalled, images):
    """A load balancer must see it before connections are refused; those under way are served."""
    server, gate, _ = stalled
    gate.set()
    server.service.begin_drain()
    assert server.client.get("/v2/health/ready").status_code == 503
    assert server.client.get("/v2/models/tiny/ready").status_code == 503
    assert server.client.get("/v2/health/live").status_code == 200
    assert server.client.post("/v2/repository/index").json()[0]["state"] == "UNAVAILABLE"
    assert server.client.post(INFER, json=_json_request(images[:1])).status_code == 200
