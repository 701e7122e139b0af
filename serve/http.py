"""The web's side: routes, headers and statuses around a repository of models; every error is ``{"error": "…"}``.

Relies on Starlette for routing alone. Answers ``/v2/…`` with and without a slash at the end, since clients send both.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from deps.ground.console import deps_version
from deps.ground.errors import DepsError
from deps.serve.access import Access
from deps.serve.answers import InferAnswer, encode_infer, json_bytes
from deps.serve.body import DEFAULT_MAX_BODY_BYTES, accepted_encoding, compress, read_body
from deps.serve.descriptions import model_metadata, server_metadata
from deps.serve.front.exchange import ARRIVAL, EXCHANGE, Exchange
from deps.serve.images import image_from_bytes
from deps.serve.metrics import CONTENT_TYPE, metrics_text
from deps.serve.models import Asking, Loaded, Served
from deps.serve.openapi import openapi
from deps.serve.protocol import (
    HEADER_LENGTH,
    MODEL_VERSION,
    TIMEOUT_HEADER,
    InferRequest,
    parse_control,
    parse_infer,
    parse_timeout_header,
)
from deps.serve.ranking import top_classes
from deps.serve.refusals import ClientGoneError, RefusedError
from deps.serve.repository import Repository

T = TypeVar("T")
Buffer = bytes | memoryview
Endpoint = Callable[[Request], Awaitable[Response]]

PICTURE_TYPES = ("image/jpeg", "image/png")
DEFAULT_TOP = 5
MAX_HEADER_BYTES = 32 * 1024

# Pictures that may wait to be decoded; each is held in memory, and a large one takes a tenth of a second of a core.
MAX_PICTURES = 64

# Above this, parsing takes long enough that other requests should not wait for it.
PARSE_ASIDE_BYTES = 1 << 16

# What nginx logs for a client that hung up; nobody receives it.
CLIENT_CLOSED_REQUEST = 499


def create_app(
    repository: Repository,
    *,
    access: Access | None = None,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    watch_s: float | None = None,
    beside: Sequence[contextlib.AbstractAsyncContextManager[object]] = (),
) -> Starlette:
    """Return the ASGI application of a repository; it closes the repository when it ends.

    Args:
        repository: the models.
        access: who may ask; everybody when None.
        max_body_bytes: limit for a request's body, also after decompression.
        watch_s: seconds between two looks for replaced bundles; None does not look.
        beside: what serves as long as the application does, such as gRPC.
    """
    access = access or Access()
    api = _Api(repository, access, max_body_bytes)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watching = None if watch_s is None else asyncio.create_task(repository.watch(watch_s))
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(repository.close)
            for server in beside:
                await stack.enter_async_context(server)
            yield
            repository.begin_drain()
            if watching is not None:
                watching.cancel()

    model = "/v2/models/{name}"
    version = model + "/versions/{version}"
    control = "/v2/repository/models/{name}"
    # Routes are tried in order, so the ones that carry the load stand first.
    routes = [
        *_routes("POST", [f"{model}/infer", f"{version}/infer"], api.infer),
        *_routes("POST", [f"{model}/classify", f"{version}/classify"], api.classify),
        *_routes("GET", ["/v2"], api.server),
        *_routes("GET", ["/v2/health/live"], api.live),
        *_routes("GET", ["/v2/health/ready"], api.ready),
        *_routes("GET", ["/v2/models/stats"], api.all_statistics),
        *_routes("GET", [model, version], api.model),
        *_routes("GET", [f"{model}/ready", f"{version}/ready"], api.model_ready),
        *_routes("GET", [f"{model}/config", f"{version}/config"], api.config),
        *_routes("GET", [f"{model}/stats", f"{version}/stats"], api.statistics),
        *_routes("POST", ["/v2/repository/index"], api.index),
        *_routes("POST", [f"{control}/load"], api.load),
        *_routes("POST", [f"{control}/unload"], api.unload),
        *_routes("GET", ["/metrics"], api.metrics),
        *_routes("GET", ["/openapi.json"], api.openapi),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(_Gate, access=access)],
        exception_handlers={
            RefusedError: _refused,
            HTTPException: _no_such_page,
            ClientGoneError: _client_gone,
            DepsError: _failed,
            Exception: _broken,
        },
    )
    app.router.redirect_slashes = False
    return app


def _routes(method: str, paths: list[str], endpoint: Endpoint) -> list[Route]:
    return [Route(path + slash, endpoint, methods=[method]) for path in paths for slash in ("", "/")]


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_bytes(value), status, headers, media_type="application/json")


def _error(message: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return _json({"error": message}, status, headers)


def _refusal(error: RefusedError) -> Response:
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (413, 431):
        headers["Connection"] = "close"  # the rest of the request is not wanted
    return _error(str(error), error.status, headers)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return _refusal(error)


async def _no_such_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        return _error(f"there is nothing at {path}; expected a path of the protocol, such as /v2/health/ready", 404)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return _error(f"{request.method} is not answered at {path}; expected {allowed}", 405, {"Allow": allowed})
    return _error(str(error.detail), error.status_code, dict(error.headers or {}))


async def _client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _failed(_: Request, error: Exception) -> Response:
    return _error(str(error), 500)


async def _broken(_: Request, error: Exception) -> Response:
    # The connection may be in any state now; the client must know not to use it again.
    message = f"the server met an error of its own ({type(error).__name__}); see its log"
    return _error(message, 500, {"Connection": "close"})


class _Gate:
    """Turns away what must not reach any route: too much in the headers, strangers, pages of other sites."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._look(scope)) is not None:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _look(self, scope: Scope) -> Response | None:
        size = 0
        found: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            size += len(name) + len(value)
            if name in (b"authorization", b"origin", b"host"):
                found[name] = value.decode("latin-1")
        try:
            if size > MAX_HEADER_BYTES:
                raise RefusedError(
                    f"the headers hold {size} bytes; expected at most {MAX_HEADER_BYTES}; send less of them", status=431
                )
            self._access.check(
                scope["path"],
                scope["method"],
                authorization=found.get(b"authorization"),
                origin=found.get(b"origin"),
                host=found.get(b"host"),
            )
        except RefusedError as error:
            return _refusal(error)
        return None


class _Api:
    """One method an endpoint."""

    def __init__(self, repository: Repository, access: Access, max_body_bytes: int) -> None:
        self._repository = repository
        self._access = access
        self._max_body_bytes = max_body_bytes
        self._pictures = 0

    async def server(self, _: Request) -> Response:
        return _json(server_metadata(deps_version()))

    async def live(self, _: Request) -> Response:
        return Response(status_code=200)

    async def ready(self, _: Request) -> Response:
        return Response(status_code=200 if self._repository.is_ready else 503)

    async def model(self, request: Request) -> Response:
        served = self._served(request)
        with served.lease() as loaded:
            return _json(model_metadata(loaded.signatures[served.takes_raw], loaded.service.choice.backend))

    async def model_ready(self, request: Request) -> Response:
        try:
            is_ready = self._repository.is_model_ready(self._served(request))
        except RefusedError as error:
            return Response(status_code=error.status)
        return Response(status_code=200 if is_ready else 503)

    async def config(self, request: Request) -> Response:
        return _json(self._repository.config(self._served(request)))

    async def statistics(self, request: Request) -> Response:
        return _json(self._repository.statistics([self._served(request)]))

    async def all_statistics(self, _: Request) -> Response:
        return _json(self._repository.statistics(self._repository.served.values()))

    async def index(self, request: Request) -> Response:
        asked = parse_control(await self._body(request), {"ready": bool, "repository_name": str})
        await self._repository.look_again()
        return _json(self._repository.index(only_ready=asked.get("ready", False)))

    async def load(self, request: Request) -> Response:
        self._access.check_control()
        parse_control(await self._body(request), {})
        await self._repository.load(request.path_params["name"])
        return Response(status_code=200)

    async def unload(self, request: Request) -> Response:
        self._access.check_control()
        parse_control(await self._body(request), {}, parameters={"unload_dependents": bool})
        await self._repository.unload(request.path_params["name"])
        return Response(status_code=200)

    async def metrics(self, _: Request) -> Response:
        return Response(metrics_text(self._repository), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, _: Request) -> Response:
        return _json(openapi(self._repository, needs_token=self._access.token is not None))

    async def infer(self, request: Request) -> Response:
        arrived = request.scope.get(ARRIVAL) or time.monotonic()
        served = self._served(request)
        with served.asking(arrived) as asking, served.lease() as loaded:
            timeout_s = parse_timeout_header(request.headers.get(TIMEOUT_HEADER))
            body = await self._body(request)
            header_length = request.headers.get(HEADER_LENGTH)
            answer = await _unless_gone(request, self._infer(served, loaded, asking, body, header_length, timeout_s))
        headers, media_type = {}, "application/json"
        if answer.json_length is not None:
            headers, media_type = {HEADER_LENGTH: str(answer.json_length)}, "application/octet-stream"
        return await _compressed(request, answer.body, headers, media_type)

    async def _infer(
        self, served: Served, loaded: Loaded, asking: Asking, body: Buffer, header_length: str | None, timeout_s: float
    ) -> InferAnswer:
        signature = loaded.signatures[served.takes_raw]
        asked: InferRequest
        if len(body) > PARSE_ASIDE_BYTES and header_length is None:
            asked = await asyncio.to_thread(parse_infer, body, None, signature)
        else:
            asked = parse_infer(body, header_length, signature)
        computed = await loaded.service.infer(
            asked.images,
            arrival=asking.arrived,
            timeout_s=min(timeout_s, asked.timeout_s),
            subnet=asked.subnet,
        )
        answer = encode_infer(asked, computed, signature)
        asking.answered(len(asked.images), computed)
        return answer

    async def classify(self, request: Request) -> Response:
        arrived = request.scope.get(ARRIVAL) or time.monotonic()
        served = self._served(request)
        with served.asking(arrived) as asking, served.lease() as loaded:
            timeout_s = parse_timeout_header(request.headers.get(TIMEOUT_HEADER))
            _check_picture_type(request.headers.get("content-type", ""))
            classes = loaded.service.manifest.output.classes
            count = _count_of_classes(request.query_params.get("top", str(DEFAULT_TOP)), classes)
            body = await self._body(request)
            answer = await _unless_gone(request, self._classify(served, loaded, asking, body, count, timeout_s))
        return _json(answer)

    async def _classify(
        self, served: Served, loaded: Loaded, asking: Asking, content: Buffer, count: int, timeout_s: float
    ) -> dict[str, Any]:
        manifest = loaded.service.manifest
        if self._pictures >= MAX_PICTURES:
            raise RefusedError(
                f"{self._pictures} pictures wait to be decoded; expected at most {MAX_PICTURES}; try later",
                status=503,
                retry_after_s=1,
            )
        self._pictures += 1
        try:
            image_CHW = await asyncio.to_thread(image_from_bytes, content, manifest.input)
        finally:
            self._pictures -= 1
        computed = await loaded.service.infer(image_CHW[None], arrival=asking.arrived, timeout_s=timeout_s)
        asking.answered(1, computed)
        return {
            "model_name": served.name,
            "model_version": MODEL_VERSION,
            "parameters": computed.by.parameters(),
            "classes": [entry.to_dict() for entry in top_classes(computed.logits[0], manifest.labels, count)],
        }

    def _served(self, request: Request) -> Served:
        return self._repository.find(request.path_params["name"], request.path_params.get("version"))

    async def _body(self, request: Request) -> Buffer:
        try:
            return await read_body(
                request.stream(),
                max_bytes=self._max_body_bytes,
                content_length=request.headers.get("content-length"),
                content_encoding=request.headers.get("content-encoding"),
            )
        except ClientDisconnect as error:
            raise ClientGoneError from error


def _check_picture_type(content_type: str) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in PICTURE_TYPES:
        shown = kind or "missing"
        raise RefusedError(f"Content-Type is {shown}; expected {' or '.join(PICTURE_TYPES)}; convert it", status=415)


def _count_of_classes(top: str, classes: int) -> int:
    if not (top.isascii() and top.isdigit()) or not 1 <= len(top) <= 6 or int(top) < 1:
        raise RefusedError(f"top is {top[:20]!r}; expected a whole number from 1 to {classes}, as in ?top=3")
    return min(int(top), classes)


async def _compressed(request: Request, body: bytes, headers: dict[str, str], media_type: str) -> Response:
    encoding = accepted_encoding(request.headers.get("accept-encoding"), len(body))
    if encoding is not None:
        body = await asyncio.to_thread(compress, body, encoding)
        headers = {**headers, "Content-Encoding": encoding, "Vary": "Accept-Encoding"}
    return Response(body, headers=headers, media_type=media_type)


async def _unless_gone(request: Request, answering: Coroutine[Any, Any, T]) -> T:
    """Return the answer, unless the client hangs up first: then the work is cancelled, and costs nothing if not begun.

    Raises:
        ClientGoneError: the client is gone.
    """
    exchange = request.scope.get(EXCHANGE)
    if isinstance(exchange, Exchange):  # our own server cancels this task, which costs nothing until it does
        with exchange.cancelled_when_gone():
            return await answering
    answer = asyncio.ensure_future(answering)
    # The body was read to its end, so the next message can only be that the client is gone.
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        raise ClientGoneError
    finally:
        gone.cancel()
