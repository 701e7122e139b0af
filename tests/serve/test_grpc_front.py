"""gRPC beside HTTP: NVIDIA's clients, blocking and asynchronous, get the right answers and the same refusals."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from deps.serve.access import Access
from deps.serve.service import ServeOptions
from running import Running, running

TOKEN = "a-secret-of-some-length"


@pytest.fixture(scope="module")
def server(make_bundle: Callable[..., Path]) -> Iterator[Running]:
    options = ServeOptions(subnet="large", max_batch=4, num_threads=1)
    with running(make_bundle(), options=options, with_grpc=True) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc) as client:
        yield client


def _tensor(images: np.ndarray, name: str = "input", datatype: str = "FP32") -> triton.InferInput:
    tensor = triton.InferInput(name, list(images.shape), datatype)
    tensor.set_data_from_numpy(images)
    return tensor


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_nvidias_client_gets_the_right_logits(client, tiny, images, compression: str | None):
    """The same numbers as over HTTP, with the request's id, and who answered."""
    answer = client.infer("tiny", [_tensor(images)], request_id="a7", compression_algorithm=compression)
    np.testing.assert_allclose(answer.as_numpy("logits"), tiny.logits(images), rtol=1e-4, atol=1e-4)
    told = answer.get_response()
    assert (told.id, told.model_name, told.model_version) == ("a7", "tiny", "1")
    assert told.parameters["subnet"].string_param == "large"


def test_asynchronous_client_gets_the_right_logits(server: Running, tiny, images):
    """Many at once on one connection."""

    async def ask_all() -> list[np.ndarray]:
        async with triton_aio.InferenceServerClient(server.grpc) as client:

            async def ask(row: int) -> np.ndarray:
                answer = await client.infer("tiny", [_tensor(images[row : row + 1])])
                return answer.as_numpy("logits")[0]

            return await asyncio.gather(*(ask(number % len(images)) for number in range(28)))

    expected_NV = tiny.logits(images)
    for number, logits_V in enumerate(asyncio.run(ask_all())):
        np.testing.assert_allclose(logits_V, expected_NV[number % len(images)], rtol=1e-4, atol=1e-4)


def test_stream_answers_in_order_and_a_refusal_ends_only_itself(server: Running, tiny, images):
    """The client's third way of asking: many requests on one call."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        for row, name in ((0, "tiny"), (1, "other"), (2, "tiny")):
            client.async_stream_infer(name, [_tensor(images[row : row + 1])], request_id=str(row))
        for row in range(3):
            result, error = answers.get(timeout=20)
            if row == 1:
                assert "there is no model 'other'" in str(error)
            else:
                assert result.get_response().id == str(row)
                expected_NV = tiny.logits(images[row : row + 1])
                np.testing.assert_allclose(result.as_numpy("logits"), expected_NV, rtol=1e-4, atol=1e-4)


def test_raw_pixels_are_normalised_by_the_server(client, tiny):
    """A quarter of the bytes, under a name of its own."""
    pixels = np.random.default_rng(2).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    answer = client.infer("tiny-uint8", [_tensor(pixels, "image", "UINT8")])
    expected_NV = tiny.logits((pixels / 255 - 0.5) / 0.25)
    np.testing.assert_allclose(answer.as_numpy("logits"), expected_NV, rtol=1e-4, atol=1e-4)


def test_classification_names_the_top_classes(client, tiny, images):
    """``value:index:label``, as over HTTP."""
    output = triton.InferRequestedOutput("logits", class_count=2)
    texts = client.infer("tiny", [_tensor(images)], outputs=[output]).as_numpy("logits")
    best = [[int(text.decode().split(":")[1]) for text in row] for row in texts]
    np.testing.assert_array_equal(best, np.argsort(-tiny.logits(images), axis=1)[:, :2])


def test_server_and_model_tell_of_themselves(client, server: Running):
    """Everything a generic client asks, and the same as HTTP tells."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("other")
    for told, path in (
        (client.get_server_metadata(as_json=True), "/v2"),
        (client.get_model_metadata("tiny", as_json=True), "/v2/models/tiny"),
    ):
        twin = server.client.get(path).json()
        assert {key: told[key] for key in ("name", *(k for k in twin if k in ("extensions", "versions")))} == {
            key: twin[key] for key in ("name", *(k for k in twin if k in ("extensions", "versions")))
        }
    config = client.get_model_config("tiny", as_json=True)["config"]
    assert (config["max_batch_size"], config["input"][0]["format"], config["input"][0]["dims"]) == (
        4,
        "FORMAT_NCHW",
        ["1", "8", "8"],
    )
    assert [entry.name for entry in client.get_model_repository_index().models] == ["tiny", "tiny-uint8"]


def test_statistics_grow_by_what_was_asked(client, images):
    """perf_analyzer subtracts two of these."""
    before = client.get_inference_statistics("tiny").model_stats[0]
    client.infer("tiny", [_tensor(images[:3])])
    after = client.get_inference_statistics("tiny").model_stats[0]
    assert after.inference_count - before.inference_count == 3
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.success.ns > before.inference_stats.success.ns
    assert len(client.get_inference_statistics().model_stats) == 2


def _code(ask: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(triton.InferenceServerException) as caught:
        ask()
    return str(caught.value.status()).rpartition(".")[2], str(caught.value.message())


def test_refusals_are_those_of_http(client, images):
    """The same sentence, with the code that gRPC has for it."""
    ask = client.infer
    said = {
        "there is no model 'other'": ("NOT_FOUND", lambda: ask("other", [_tensor(images)])),
        "has no version '2'": ("NOT_FOUND", lambda: ask("tiny", [_tensor(images)], model_version="2")),
        "name is 'x'; expected 'input'": ("INVALID_ARGUMENT", lambda: ask("tiny", [_tensor(images, "x")])),
        "shape is [7, 8, 8]": ("INVALID_ARGUMENT", lambda: ask("tiny", [_tensor(images[:, 0])])),
        "expected 'FP32'": ("INVALID_ARGUMENT", lambda: ask("tiny", [_tensor(images.astype("u1"), datatype="UINT8")])),
        "list of the one input": ("INVALID_ARGUMENT", lambda: ask("tiny", [_tensor(images)] * 2)),
    }
    for text, (code, attempt) in said.items():
        told = _code(attempt)
        assert told[0] == code, told
        assert text in told[1]


def test_message_over_the_limit_is_refused(client):
    """The same limit as for HTTP's bodies."""
    code, _ = _code(lambda: client.infer("tiny", [_tensor(np.zeros((900, 1, 8, 8), np.float32))]))
    assert code == "RESOURCE_EXHAUSTED"


def test_contents_of_the_wrong_kind_are_refused(server: Running, images):
    """Typed contents work, and only those of the datatype."""
    import grpc

    from deps.serve.grpc_messages import CLASSES, SERVICE

    request, answer = CLASSES["ModelInferRequest"], CLASSES["ModelInferResponse"]
    with grpc.insecure_channel(server.grpc) as channel:
        ask = channel.unary_unary(f"/{SERVICE}/ModelInfer", request.SerializeToString, answer.FromString)
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8]}
        good = request(
            model_name="tiny", inputs=[{**tensor, "contents": {"fp32_contents": images[0].ravel().tolist()}}]
        )
        assert len(ask(good).raw_output_contents[0]) == 40
        for contents in ({"fp64_contents": [0.0] * 64}, {"fp32_contents": [0.0] * 63}, {}):
            with pytest.raises(grpc.RpcError) as caught:
                ask(request(model_name="tiny", inputs=[{**tensor, "contents": contents}]))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_deadline_of_the_call_is_the_requests(server: Running, client, images):
    """gRPC carries deadlines of its own; one that cannot be kept is refused before anything is computed."""
    for given in ({"timeout": 1}, {"headers": {"deps-timeout-ms": "0.001"}}, {"client_timeout": 0.00001}):
        code, said = _code(lambda given=given: client.infer("tiny", [_tensor(images[:1])], **given))
        assert code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), said
        assert code == "UNAVAILABLE" or "client_timeout" in given


def test_refusal_for_lack_of_time_says_when_to_come_back(server: Running, images):
    """HTTP's Retry-After, as trailing metadata; NVIDIA's client hides it, so the messages are sent without it."""
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=[1, 1, 8, 8])
    request = service_pb2.ModelInferRequest(
        model_name="tiny", inputs=[tensor], raw_input_contents=[images[:1].tobytes()]
    )
    request.parameters["timeout"].int64_param = 1
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(caught.value.trailing_metadata())["retry-after"] == "1"


def test_models_are_unloaded_and_loaded_over_grpc(make_bundle: Callable[..., Path], images):
    """The repository extension, as NVIDIA's client speaks it; and a token where one is asked for."""
    options = ServeOptions(subnet="large", max_batch=4, num_threads=1)
    with (
        running(make_bundle(), options=options, with_grpc=True, access=Access(token=TOKEN)) as server,
        triton.InferenceServerClient(server.grpc) as client,
    ):
        shown = {"authorization": f"Bearer {TOKEN}"}
        assert client.is_server_ready()
        assert _code(lambda: client.get_model_metadata("tiny"))[0] == "UNAUTHENTICATED"
        assert _code(lambda: client.infer("tiny", [_tensor(images)]))[0] == "UNAUTHENTICATED"
        streamed: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: streamed.put((result, error)))
        client.async_stream_infer("tiny", [_tensor(images)])
        result, error = streamed.get(timeout=20)
        client.stop_stream()
        assert result is None
        assert "token is missing" in str(error)
        client.unload_model("tiny", headers=shown)
        assert not client.is_model_ready("tiny", headers=shown)
        assert _code(lambda: client.infer("tiny", [_tensor(images)], headers=shown))[0] == "UNAVAILABLE"
        client.load_model("tiny", headers=shown)
        assert client.infer("tiny", [_tensor(images)], headers=shown).as_numpy("logits").shape == (7, 10)


def test_strangers_change_nothing_over_grpc_on_an_open_address(make_bundle: Callable[..., Path], images):
    """The same rule as for HTTP: without a token, only those on this machine load and unload."""
    options, access = ServeOptions(subnet="large", max_batch=4, num_threads=1), Access(may_control=False)
    with (
        running(make_bundle(), options=options, with_grpc=True, access=access) as server,
        triton.InferenceServerClient(server.grpc) as client,
    ):
        assert _code(lambda: client.unload_model("tiny"))[0] == "PERMISSION_DENIED"
        assert _code(lambda: client.load_model("tiny"))[0] == "PERMISSION_DENIED"
        assert client.infer("tiny", [_tensor(images)]).as_numpy("logits").shape == (7, 10)
