"""The web's side: routes, headers and statuses around a ``Service``; every error is ``{"error": "…"}``.

Relies on Starlette for routing alone. Answers ``/v2/…`` with and without a slash at the end, since clients send both.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from deps.ground.console import deps_version
from deps.ground.errors import DepsError
from deps.serve.answers import InferAnswer, encode_infer, json_bytes
from deps.serve.body import DEFAULT_MAX_BODY_BYTES, read_body
from deps.serve.descriptions import model_metadata, server_metadata
from deps.serve.images import image_from_bytes
from deps.serve.protocol import HEADER_LENGTH, MODEL_VERSION, parse_infer
from deps.serve.ranking import top_classes
from deps.serve.refusals import RefusedError
from deps.serve.service import Service
from deps.serve.signature import signatures

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

PICTURE_TYPES = ("image/jpeg", "image/png")
DEFAULT_TOP = 5

# Above this, parsing takes long enough that other requests should not wait for it.
PARSE_ASIDE_BYTES = 1 << 16

# What nginx logs for a client that hung up; nobody receives it.
CLIENT_CLOSED_REQUEST = 499


def create_app(service: Service, *, max_body_bytes: int = DEFAULT_MAX_BODY_BYTES) -> Starlette:
    """Return the ASGI application of one service; it closes the service when it ends."""
    api = _Api(service, max_body_bytes)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    model = "/v2/models/{name}"
    version = model + "/versions/{version}"
    # Routes are tried in order, so the ones that carry the load stand first.
    routes = [
        *_routes("POST", [f"{model}/infer", f"{version}/infer"], api.infer),
        *_routes("POST", [f"{model}/classify", f"{version}/classify"], api.classify),
        *_routes("GET", ["/v2"], api.server),
        *_routes("GET", ["/v2/health/live"], api.live),
        *_routes("GET", ["/v2/health/ready"], api.ready),
        *_routes("GET", [model, version], api.model),
        *_routes("GET", [f"{model}/ready", f"{version}/ready"], api.model_ready),
        *_routes("POST", ["/v2/repository/index"], api.index),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            RefusedError: _refused,
            HTTPException: _no_such_page,
            ClientDisconnect: _client_gone,
            DepsError: _failed,
            Exception: _broken,
        },
    )
    app.router.redirect_slashes = False
    return app


def _routes(method: str, paths: list[str], endpoint: Endpoint) -> list[Route]:
    return [Route(path + slash, endpoint, methods=[method]) for path in paths for slash in ("", "/")]


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json_bytes(value), status, headers, media_type="application/json")


def _error(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return _json({"error": message}, status, headers)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 413:
        headers["Connection"] = "close"  # the rest of the body is not wanted
    return _error(str(error), error.status, headers)


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
    # uvicorn hangs up after such an error; the client must know, or its next request runs into a closed connection.
    message = f"the server met an error of its own ({type(error).__name__}); see its log"
    return _error(message, 500, {"Connection": "close"})


class _Api:
    """One method an endpoint."""

    def __init__(self, service: Service, max_body_bytes: int) -> None:
        self._service = service
        self._signature = signatures(service.manifest)[0]
        self._max_body_bytes = max_body_bytes

    async def server(self, _: Request) -> Response:
        return _json(server_metadata(deps_version()))

    async def live(self, _: Request) -> Response:
        return Response(status_code=200)

    async def ready(self, _: Request) -> Response:
        return Response(status_code=200 if self._service.is_ready else 503)

    async def model(self, request: Request) -> Response:
        self._check_model(request)
        return _json(model_metadata(self._signature, self._service.choice.backend))

    async def model_ready(self, request: Request) -> Response:
        try:
            self._check_model(request)
        except RefusedError as error:
            return Response(status_code=error.status)
        return await self.ready(request)

    async def index(self, request: Request) -> Response:
        await self._body(request)
        state, reason = ("READY", "") if self._service.is_ready else ("UNAVAILABLE", "the server is shutting down")
        entry = {"name": self._service.manifest.name, "version": MODEL_VERSION, "state": state, "reason": reason}
        return _json([entry])

    async def infer(self, request: Request) -> Response:
        self._check_model(request)
        body = await self._body(request)
        answer = await _unless_gone(request, self._infer(body, request.headers.get(HEADER_LENGTH)))
        if answer.json_length is None:
            return Response(answer.body, media_type="application/json")
        headers = {HEADER_LENGTH: str(answer.json_length)}
        return Response(answer.body, headers=headers, media_type="application/octet-stream")

    async def classify(self, request: Request) -> Response:
        self._check_model(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in PICTURE_TYPES:
            shown = kind or "missing"
            raise RefusedError(
                f"Content-Type is {shown}; expected {' or '.join(PICTURE_TYPES)}; convert it", status=415
            )
        top = request.query_params.get("top", str(DEFAULT_TOP))
        classes = self._service.manifest.output.classes
        if not (top.isascii() and top.isdigit()) or not 1 <= len(top) <= 6 or int(top) < 1:
            raise RefusedError(f"top is {top[:20]!r}; expected a whole number from 1 to {classes}, as in ?top=3")
        body = await self._body(request)
        return _json(await _unless_gone(request, self._classify(body, min(int(top), classes))))

    async def _infer(self, body: bytes, header_length: str | None) -> InferAnswer:
        if len(body) > PARSE_ASIDE_BYTES and header_length is None:
            asked = await asyncio.to_thread(parse_infer, body, None, self._signature)
        else:
            asked = parse_infer(body, header_length, self._signature)
        computed = await self._service.infer(asked.images, timeout_s=asked.timeout_s)
        return encode_infer(asked, computed, self._signature)

    async def _classify(self, content: bytes, count: int) -> dict[str, Any]:
        manifest = self._service.manifest
        image_CHW = await asyncio.to_thread(image_from_bytes, content, manifest.input)
        computed = await self._service.infer(image_CHW[None])
        return {
            "model_name": manifest.name,
            "model_version": MODEL_VERSION,
            "parameters": computed.by.parameters(),
            "classes": [entry.to_dict() for entry in top_classes(computed.logits[0], manifest.labels, count)],
        }

    def _check_model(self, request: Request) -> None:
        name, version = request.path_params["name"], request.path_params.get("version", MODEL_VERSION)
        served = self._service.manifest.name
        if name != served:
            raise RefusedError(f"there is no model {name!r}; expected {served!r}; see /v2/repository/index", status=404)
        if version != MODEL_VERSION:
            raise RefusedError(f"model {name!r} has no version {version!r}; expected {MODEL_VERSION!r}", status=404)

    async def _body(self, request: Request) -> bytes:
        return await read_body(
            request.stream(),
            max_bytes=self._max_body_bytes,
            content_length=request.headers.get("content-length"),
            content_encoding=request.headers.get("content-encoding"),
        )


async def _unless_gone(request: Request, answering: Coroutine[Any, Any, T]) -> T:
    """Return the answer, unless the client hangs up first: then the work is cancelled, and costs nothing if not begun.

    Raises:
        ClientDisconnect: the client is gone.
    """
    answer = asyncio.ensure_future(answering)
    # The body was read to its end, so the next message can only be that the client is gone.
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        raise ClientDisconnect
    finally:
        gone.cancel()
