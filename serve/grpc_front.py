"""The Open Inference Protocol over gRPC, beside HTTP in the same process and on the same models.

Relies on grpcio's asyncio server in the event loop that the models belong to. Requests are brought into the form of
their JSON twins and read by the same functions, so both protocols refuse the same things in the same words.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
import numpy as np
from google.protobuf import json_format

from deps.ground.console import deps_version
from deps.ground.errors import AddressError, DepsError
from deps.serve.access import Access
from deps.serve.answers import bytes_tensor, classification
from deps.serve.computed import Computed
from deps.serve.descriptions import model_metadata, server_metadata
from deps.serve.grpc_messages import CLASSES, METHODS, SERVICE
from deps.serve.protocol import MODEL_VERSION, InferRequest, parse_timeout_header, read_infer
from deps.serve.refusals import RefusedError
from deps.serve.repository import Repository
from deps.serve.signature import Signature
from deps.serve.tensors import refuse

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_CONTENTS = {"FP32": "fp32_contents", "UINT8": "uint_contents"}
_OPEN_METHODS = ("ServerLive", "ServerReady")
DRAIN_S = 30

Message = Any
Context = Any  # grpcio ships no types of its own


class GrpcFront:
    """A gRPC server; an asynchronous context manager that serves while it is open."""

    def __init__(
        self, repository: Repository, address: str, *, access: Access | None = None, max_body_bytes: int
    ) -> None:
        """Listen nowhere yet.

        Args:
            repository: the models.
            address: ``host:port``; port 0 takes a free one.
            access: who may ask; everybody when None.
            max_body_bytes: limit for a message.
        """
        self._repository = repository
        self._address = address
        self._access = access or Access()
        self._max_body_bytes = max_body_bytes
        self._server: Any = None
        self.port = 0
        """Where it listens once it is open."""

    async def __aenter__(self) -> GrpcFront:
        """Listen and serve.

        Raises:
            AddressError: the port is taken or forbidden.
        """
        options = [
            ("grpc.max_receive_message_length", self._max_body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.aio.server(options=options)
        handlers = {method: self._handler(method) for method in METHODS}
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=CLASSES["ModelInferRequest"].FromString,
            response_serializer=CLASSES["ModelStreamInferResponse"].SerializeToString,
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            self.port = self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise AddressError(
                f"cannot listen on {self._address} for gRPC; expected a free address; try --grpc-port 0"
            ) from error
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answer what is under way, and stop."""
        await self._server.stop(DRAIN_S)

    async def _stream(self, requests: AsyncIterator[Message], context: Context) -> AsyncIterator[Message]:
        """Answer requests one after the other, in their order; a refusal ends none but its own."""
        answer = CLASSES["ModelStreamInferResponse"]
        async for request in requests:
            try:
                self._check("ModelStreamInfer", context)
                yield answer(infer_response=await self._model_infer(request, context))
            except DepsError as error:
                yield answer(error_message=str(error), infer_response={"id": request.id})

    def _handler(self, method: str) -> Any:
        requested, answer = CLASSES[f"{method}Request"], CLASSES[f"{method}Response"]
        endpoint: Callable[[Message, Context], Awaitable[Message]] = getattr(self, f"_{_snake(method)}")

        async def handle(request: Message, context: Context) -> Message:
            try:
                self._check(method, context)
                return await endpoint(request, context)
            except RefusedError as error:
                if error.retry_after_s is not None:
                    context.set_trailing_metadata((("retry-after", str(error.retry_after_s)),))
                await context.abort(_CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT), str(error))
            except DepsError as error:
                await context.abort(grpc.StatusCode.INTERNAL, str(error))

        return grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=requested.FromString, response_serializer=answer.SerializeToString
        )

    def _check(self, method: str, context: Context) -> None:
        shown = dict(context.invocation_metadata() or ()).get("authorization")
        path = "/v2/health/live" if method in _OPEN_METHODS else f"/{SERVICE}/{method}"
        self._access.check(path, "POST", authorization=None if shown is None else str(shown), origin=None, host=None)

    async def _server_live(self, _: Message, __: Context) -> Message:
        return CLASSES["ServerLiveResponse"](live=True)

    async def _server_ready(self, _: Message, __: Context) -> Message:
        return CLASSES["ServerReadyResponse"](ready=self._repository.is_ready)

    async def _model_ready(self, request: Message, _: Context) -> Message:
        try:
            is_ready = self._repository.is_model_ready(self._repository.find(request.name, request.version))
        except RefusedError:
            is_ready = False
        return CLASSES["ModelReadyResponse"](ready=is_ready)

    async def _server_metadata(self, _: Message, __: Context) -> Message:
        return CLASSES["ServerMetadataResponse"](**server_metadata(deps_version()))

    async def _model_metadata(self, request: Message, _: Context) -> Message:
        served = self._repository.find(request.name, request.version)
        with served.lease() as loaded:
            told = model_metadata(loaded.signatures[served.takes_raw], loaded.service.choice.backend)
        return CLASSES["ModelMetadataResponse"](**told)

    async def _model_config(self, request: Message, _: Context) -> Message:
        config = self._repository.config(self._repository.find(request.name, request.version))
        return json_format.ParseDict({"config": config}, CLASSES["ModelConfigResponse"]())

    async def _model_statistics(self, request: Message, _: Context) -> Message:
        repository = self._repository
        served = [repository.find(request.name, request.version)] if request.name else repository.served.values()
        told = repository.statistics(served)
        return json_format.ParseDict(told, CLASSES["ModelStatisticsResponse"](), ignore_unknown_fields=True)

    async def _repository_index(self, request: Message, _: Context) -> Message:
        await self._repository.look_again()
        return CLASSES["RepositoryIndexResponse"](models=self._repository.index(only_ready=request.ready))

    async def _repository_model_load(self, request: Message, _: Context) -> Message:
        self._access.check_control()
        if request.parameters:
            refuse("parameters of a load are not read; expected none; the bundle says it all")
        await self._repository.load(request.model_name)
        return CLASSES["RepositoryModelLoadResponse"]()

    async def _repository_model_unload(self, request: Message, _: Context) -> Message:
        self._access.check_control()
        await self._repository.unload(request.model_name)
        return CLASSES["RepositoryModelUnloadResponse"]()

    async def _model_infer(self, request: Message, context: Context) -> Message:
        arrived = time.monotonic()
        served = self._repository.find(request.model_name, request.model_version)
        with served.asking(arrived) as asking, served.lease() as loaded:
            signature = loaded.signatures[served.takes_raw]
            asked = _read(request, signature)
            metadata = dict(context.invocation_metadata() or ())
            header = metadata.get("deps-timeout-ms")
            granted = parse_timeout_header(None if header is None else str(header))
            remaining = context.time_remaining()
            computed = await loaded.service.infer(
                asked.images,
                arrival=arrived,
                timeout_s=min(asked.timeout_s, granted, math.inf if remaining is None else max(remaining, 0.0)),
                subnet=asked.subnet,
            )
            answer = _answer(asked, computed, signature)
            asking.answered(len(asked.images), computed)
        return answer


def _snake(method: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in method).lstrip("_")


def _parameters(told: Any, where: str) -> dict[str, Any]:
    """Return the protocol's parameters as plain values."""
    plain = {}
    for key, value in told.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is None:
            refuse(f"{where}.parameters.{key} is missing; expected text, a number, true or false")
        plain[key] = getattr(value, kind)
    return plain


def _read(request: Any, signature: Signature) -> InferRequest:
    """Understand a request, in the form of its JSON twin.

    Raises:
        RefusedError: malformed; 400.
    """
    raw = request.raw_input_contents
    inputs = []
    for number, tensor in enumerate(request.inputs):
        where = f"request.inputs[{number}]"
        plain: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        parameters = _parameters(tensor.parameters, where)
        if raw:
            if tensor.HasField("contents"):
                refuse(f"{where} has contents beside raw_input_contents; expected one of them")
            parameters["binary_data_size"] = len(raw[number]) if number < len(raw) else 0
        else:
            plain["data"] = _contents(tensor, where, signature)
        inputs.append(plain | {"parameters": parameters})
    if len(raw) > len(inputs):
        refuse(f"request.raw_input_contents has {len(raw)} entries; expected one an input, {len(inputs)}")
    outputs = [
        {"name": output.name, "parameters": _parameters(output.parameters, "request.outputs[]")}
        for output in request.outputs
    ]
    value: dict[str, Any] = {
        "parameters": _parameters(request.parameters, "request"),
        "inputs": inputs,
        "outputs": outputs,
    }
    if request.id:
        value["id"] = request.id
    return read_infer(value, raw[0] if len(raw) == 1 else b"".join(raw), signature)


def _contents(tensor: Any, where: str, signature: Signature) -> list[Any]:
    wanted = _CONTENTS[signature.input.datatype]
    for field, _ in tensor.contents.ListFields():
        if field.name != wanted:
            refuse(f"{where}.contents.{field.name} is given; expected {wanted} for {signature.input.datatype}")
    return list(getattr(tensor.contents, wanted))


def _answer(asked: InferRequest, computed: Computed, signature: Signature) -> Any:
    """Write the answer; tensors always travel as raw bytes, which the protocol leaves to the server."""
    logits_NV = computed.logits
    if asked.output.classification:
        datatype, shape = "BYTES", [len(logits_NV), asked.output.classification]
        raw = bytes_tensor(classification(logits_NV, asked.output.classification, signature.labels))
    else:
        datatype, shape = signature.output.datatype, list(logits_NV.shape)
        raw = np.ascontiguousarray(logits_NV, signature.output.dtype).tobytes()
    return CLASSES["ModelInferResponse"](
        model_name=signature.name,
        model_version=MODEL_VERSION,
        id=asked.id or "",
        parameters={key: {"string_param": value} for key, value in computed.by.parameters().items()},
        outputs=[{"name": signature.output.name, "datatype": datatype, "shape": shape}],
        raw_output_contents=[raw],
    )
