"""The server, over a real socket: NVIDIA's client and httpx, which nobody here wrote, get the right answers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gzip
import io
import json
import socket
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from deps.serve import runner
from deps.serve.access import Access
from deps.serve.service import ServeOptions
from running import MAX_BODY_BYTES, Running, running

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gevent warns about its own internals when it is imported
    import tritonclient.http as triton
    import tritonclient.http.aio as triton_aio

INFER = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def server(make_bundle: Callable[..., Path]) -> Iterator[Running]:
    with running(make_bundle(), options=ServeOptions(subnet="large", max_batch=4, num_threads=1)) as server:
        yield server


@pytest.fixture
def client(server: Running) -> httpx.Client:
    return server.client


@pytest.fixture(scope="module")
def triton_client(server: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=4) as client:
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
    entries = triton_client.get_model_repository_index()
    assert [(entry["name"], entry["version"], entry["state"]) for entry in entries] == [
        ("tiny", "1", "READY"),
        ("tiny-uint8", "1", "READY"),
    ]


def test_nvidias_client_reads_configuration_and_statistics(triton_client, images):
    """What its example programs and perf_analyzer ask for before they send anything."""
    config = triton_client.get_model_config("tiny")
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (4, [1, 8, 8])
    assert config["parameters"]["precision"] == {"string_value": "fp32"}
    (before,) = triton_client.get_inference_statistics("tiny")["model_stats"]
    tensor = triton.InferInput("input", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    triton_client.infer("tiny", [tensor])
    (after,) = triton_client.get_inference_statistics("tiny", "1")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == len(images)
    assert after["execution_count"] > before["execution_count"]
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    assert len(triton_client.get_inference_statistics()["model_stats"]) == 2


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
@pytest.mark.parametrize("wants_binary", [False, True])
def test_nvidias_client_reads_compressed_answers(triton_client, tiny, compression: str, wants_binary: bool):
    """Long answers are compressed for those who ask; the length of the JSON counts before compression."""
    images = np.random.default_rng(5).normal(size=(40, 1, 8, 8)).astype(np.float32)
    tensor = triton.InferInput("input", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    answer = triton_client.infer(
        "tiny",
        [tensor],
        outputs=[triton.InferRequestedOutput("logits", binary_data=wants_binary)],
        response_compression_algorithm=compression,
    )
    np.testing.assert_allclose(answer.as_numpy("logits"), tiny.logits(images), rtol=1e-4, atol=1e-4)


def test_nvidias_asynchronous_client_gets_the_right_logits(server: Running, tiny, images):
    """The other of its two HTTP clients, on aiohttp."""

    async def ask() -> np.ndarray:
        async with triton_aio.InferenceServerClient(server.address) as client:
            assert await client.is_model_ready("tiny")
            tensor = triton.InferInput("input", list(images.shape), "FP32")
            tensor.set_data_from_numpy(images)
            return (await client.infer("tiny", [tensor])).as_numpy("logits")

    np.testing.assert_allclose(asyncio.run(ask()), tiny.logits(images), rtol=1e-4, atol=1e-4)


def test_nvidias_client_unloads_and_loads(make_bundle: Callable[..., Path], images):
    """The repository extension; what is unloaded is 503, and what the bundle says cannot be overridden."""
    options = ServeOptions(subnet="large", max_batch=4, num_threads=1)
    with (
        running(make_bundle(), options=options) as server,
        triton.InferenceServerClient(server.address) as client,
    ):
        client.unload_model("tiny")
        assert not client.is_model_ready("tiny")
        assert [entry["state"] for entry in client.get_model_repository_index()] == ["UNAVAILABLE"] * 2
        refused = server.client.post(INFER, json=_json_request(images[:1]))
        assert refused.status_code == 503
        assert "load it with POST /v2/repository/models/tiny/load" in refused.json()["error"]
        with pytest.raises(triton.InferenceServerException, match="unknown key 'config'"):
            client.load_model("tiny", config="{}")
        client.load_model("tiny")
        assert client.is_model_ready("tiny")
        assert server.client.post(INFER, json=_json_request(images[:1])).status_code == 200


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


def test_body_over_the_limit_is_refused_unread(server: Running):
    """Peers accept an announced 8 GB; here the announcement is enough to refuse it."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000000\r\n\r\n"
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()  # to its end: the rest is not awaited
    assert answer.startswith("HTTP/1.1 413 ")
    assert "\r\nconnection: close\r\n" in answer.lower()
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


@pytest.mark.parametrize(
    ("header", "encoding"),
    [("gzip", "gzip"), ("br, deflate;q=0.5", "deflate"), ("gzip;q=0, br", None), (None, None), ("identity", None)],
)
def test_long_answers_are_compressed_for_those_who_accept_it(client, header: str | None, encoding: str | None):
    """A weight of zero is a refusal, and nobody gets what they cannot read."""
    images = np.zeros((20, 1, 8, 8), np.float32)
    headers = {"Accept-Encoding": header or ""}
    answer = client.post(INFER, json=_json_request(images), headers=headers)
    assert answer.headers.get("content-encoding") == encoding
    assert len(answer.json()["outputs"][0]["data"]) == 200


def test_deadline_counts_from_the_arrival(client, images):
    """In the parameters in microseconds, in a header in milliseconds; what cannot be kept is refused at once."""
    late = _json_request(images[:1], parameters={"timeout": 1})
    good = _json_request(images[:1], parameters={"timeout": 10_000_000})
    for body, headers, status in (
        (late, {}, 503),
        (good, {}, 200),
        (good, {"Deps-Timeout-Ms": "0.001"}, 503),
        (good, {"Deps-Timeout-Ms": "soon"}, 400),
    ):
        answer = client.post(INFER, json=body, headers=headers)
        assert answer.status_code == status
        assert ("Retry-After" in answer.headers) == (status == 503)


def test_request_may_name_its_subnet(client, images):
    """And is told when there is none of that name."""
    assert client.post(INFER, json=_json_request(images, parameters={"subnet": "large"})).status_code == 200
    assert client.post(INFER, json=_json_request(images, parameters={"subnet": "huge"})).status_code == 404
    assert client.post(INFER, json=_json_request(images, parameters={"subnet": 3})).status_code == 400


def test_raw_pixels_are_normalised_by_the_server(client, tiny):
    """A quarter of the bytes, under a name of its own; the answer is that of the normalised tensor."""
    pixels = np.random.default_rng(2).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    metadata = client.get("/v2/models/tiny-uint8").json()
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 8, 8]}]
    headers = {"Inference-Header-Content-Length": "0"}
    answer = client.post("/v2/models/tiny-uint8/infer", content=pixels.tobytes(), headers=headers)
    length = int(answer.headers["Inference-Header-Content-Length"])
    logits_NV = np.frombuffer(answer.content[length:], "<f4").reshape(-1, 10)
    np.testing.assert_allclose(logits_NV, tiny.logits((pixels / 255 - 0.5) / 0.25), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("index", b'{"ready": 1}', "the request.ready is 1; expected bool"),
        ("index", b"[]", "expected a JSON object"),
        ("models/tiny/load", b'{"parameters": {"file:1/model.onnx": "x"}}', "unknown key 'file:1/model.onnx'"),
        ("models/tiny/unload", b'{"parameters": {"unload_dependents": 1}}', "expected bool"),
        ("models/tiny/unload", b"{", "is not JSON"),
    ],
)
def test_control_requests_are_read_strictly(client, path: str, body: bytes, said: str):
    """What is not understood must not be done by half."""
    answer = client.post(f"/v2/repository/{path}", content=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_headers_over_the_limit_are_refused(client):
    """Memory for headers is bounded as for bodies."""
    answer = client.get("/v2", headers={f"x-{number}": "y" * 4000 for number in range(10)})
    assert answer.status_code == 431
    assert "the headers are too long" in answer.json()["error"]


def test_server_with_a_token_answers_only_to_it(make_bundle: Callable[..., Path]):
    """Health stays open for load balancers; a refusal says how to ask."""
    access = Access(token="a-secret-of-some-length", may_control=False)
    with running(make_bundle(), options=ServeOptions(subnet="large", num_threads=1), access=access) as server:
        refused = server.client.get("/v2/models/tiny")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert server.client.get("/v2/health/ready").status_code == 200
        server.client.headers["Authorization"] = "Bearer a-secret-of-some-length"
        assert server.client.get("/v2/models/tiny").status_code == 200
        assert server.client.post("/v2/repository/models/tiny/unload").status_code == 403
        assert server.client.get("/openapi.json").json()["security"] == [{"token": []}]


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


def test_pictures_that_wait_to_be_decoded_are_bounded(client, monkeypatch: pytest.MonkeyPatch):
    """Decoding is slower than sending; the rest is refused before it fills the memory."""
    monkeypatch.setattr("deps.serve.pictures.MAX_PICTURES", 0)
    content, headers = _png(np.zeros((8, 8), np.uint8)), {"Content-Type": "image/png"}
    answer = client.post("/v2/models/tiny/classify", content=content, headers=headers)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "pictures wait to be decoded" in answer.json()["error"]


def test_log_says_what_became_of_each_request(client, images, caplog: pytest.LogCaptureFixture):
    """At the level debug, with the facts in keys of their own."""
    with caplog.at_level("DEBUG", logger="deps.serve"):
        client.post(INFER, json=_json_request(images))
        client.post(INFER, json={})
    told = [vars(record) for record in caplog.records if record.name == "deps.serve"]
    assert [(entry["outcome"], entry["model"]) for entry in told] == [("answered", "tiny"), ("refused", "tiny")]
    assert (told[0]["images"], told[0]["subnet"], told[1]["status"]) == (7, "large", 400)


# Under load, and at the end


def test_many_clients_at_once_get_their_own_answers(server: Running, tiny, images):
    """Requests are joined into batches behind the scenes; no row may go to another's connection."""
    expected_NV = tiny.logits(images)

    async def ask_all() -> list[np.ndarray]:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:

            async def ask(row: int) -> np.ndarray:
                answer = await client.post(INFER, json=_json_request(images[row : row + 1]))
                return np.array(answer.json()["outputs"][0]["data"])

            return await asyncio.gather(*(ask(number % len(images)) for number in range(140)))

    for number, logits_V in enumerate(asyncio.run(ask_all())):
        np.testing.assert_allclose(logits_V, expected_NV[number % len(images)], rtol=1e-4, atol=1e-4)


@pytest.fixture
def stalled(
    make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Running, threading.Event, list[int]]]:
    """A server of one queue place a batch, whose engine waits at a gate; and the batches it ran."""
    monkeypatch.setattr(runner, "LEND_S", 0.0)  # the event loop is not to wait at the gate
    with running(
        make_bundle(), options=ServeOptions(subnet="large", max_batch=2, max_queue_images=2, num_threads=1)
    ) as server:
        gate, batches, engine = threading.Event(), [], server.engine
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
    engine = server.engine
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
    engine = server.engine
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
    server.repository.begin_drain()
    assert server.client.get("/v2/health/ready").status_code == 503
    assert server.client.get("/v2/models/tiny/ready").status_code == 503
    assert server.client.get("/v2/health/live").status_code == 200
    assert server.client.post("/v2/repository/index").json()[0]["state"] == "UNAVAILABLE"
    assert server.client.post(INFER, json=_json_request(images[:1])).status_code == 200


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        (INFER, "wrong", 401),
        ("/v2/models/absent/infer", "a-token-of-ours", 404),
        ("/v2/models/tiny/versions/7/classify", "a-token-of-ours", 404),
        ("/upload", "a-token-of-ours", 404),
        ("/metrics", "a-token-of-ours", 405),
        ("/v2/models/tiny", "a-token-of-ours", 405),
        ("/v2/models/tiny/classify", "a-token-of-ours", 415),
    ],
)
def test_large_body_of_a_stranger_or_to_nowhere_is_not_read(make_bundle, path: str, token: str, status: int):
    """Only the head has been sent when the answer comes; a model's own address gives leave."""
    options, access = ServeOptions(num_threads=1), Access(token="a-token-of-ours")
    with running(make_bundle(), options=options, access=access) as server:

        def told(path: str, token: str) -> bytes:
            host, port = server.address.split(":")
            lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", "Content-Length: 150000"]
            with socket.create_connection((host, int(port)), timeout=10) as client:
                client.sendall("\r\n".join([*lines, "Expect: 100-continue", "", ""]).encode())
                return client.recv(4096)

        answer = told(path, token)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert (b"www-authenticate: Bearer" in answer) == (status == 401)
        assert (b"allow: GET, HEAD\r\n" in answer) == (status == 405)
        assert told(INFER, "a-token-of-ours") == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    ("header", "status"),
    [("Deps-Timeout-Ms: soon", 400), ("Content-Encoding: br", 415)],
)
def test_large_body_behind_a_head_that_is_wrong_is_not_read(server: Running, header: str, status: int):
    """The head alone shows what the answer will be; where a model is asked, the refusal is counted."""
    host, port = server.address.split(":")
    refusals = server.repository.served["tiny"].statistics.refusals
    before = refusals[status]
    lines = [f"POST {INFER} HTTP/1.1", "Host: x", header, "Content-Length: 150000", "Expect: 100-continue", "", ""]
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall("\r\n".join(lines).encode())
        assert client.recv(4096).startswith(f"HTTP/1.1 {status} ".encode())
    assert refusals[status] == before + 1
