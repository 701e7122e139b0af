"""The web's side: routes, headers and statuses around a repository of models; every error is ``{"error": "…"}``.

Relies on Starlette for routing alone. Answers ``/v2/…`` with and without a slash at the end, since clients send both.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route

from deps.ground.console import deps_version
from deps.ground.errors import DepsError
from deps.serve.access import Access
from deps.serve.body import DEFAULT_MAX_BODY_BYTES, read_body
from deps.serve.descriptions import family_description, model_metadata, server_metadata
from deps.serve.gate import Gate
from deps.serve.inference import Inference
from deps.serve.metrics import CONTENT_TYPE, metrics_text
from deps.serve.models import Served
from deps.serve.openapi import openapi
from deps.serve.page import page_routes
from deps.serve.protocol import parse_control
from deps.serve.refusals import ClientGoneError, RefusedError, no_such_page, wrong_method
from deps.serve.replies import Reply, error_reply, json_reply, reply_to
from deps.serve.repository import Repository

Endpoint = Callable[[Request], Awaitable[Reply]]


def create_app(
    repository: Repository,
    *,
    access: Access | None = None,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    watch_s: float | None = None,
    beside: Sequence[contextlib.AbstractAsyncContextManager[object]] = (),
) -> Gate:
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
    inference = Inference(repository, max_body_bytes)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watching = None if watch_s is None else asyncio.create_task(repository.watch(watch_s))
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(inference.close)
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
    routes = [
        *_routes("GET", ["/v2"], api.server),
        *_routes("GET", ["/v2/health/live"], api.live),
        *_routes("GET", ["/v2/health/ready"], api.ready),
        *_routes("GET", ["/v2/models/stats"], api.all_statistics),
        *_routes("GET", [model, version], api.model),
        *_routes("GET", [f"{model}/ready", f"{version}/ready"], api.model_ready),
        *_routes("GET", [f"{model}/config", f"{version}/config"], api.config),
        *_routes("GET", [f"{model}/stats", f"{version}/stats"], api.statistics),
        *_routes("GET", [f"{model}/subnets", f"{version}/subnets"], api.subnets),
        *_routes("POST", ["/v2/repository/index"], api.index),
        *_routes("POST", [f"{control}/load"], api.load),
        *_routes("POST", [f"{control}/unload"], api.unload),
        *_routes("GET", ["/metrics"], api.metrics),
        *_routes("GET", ["/openapi.json"], api.openapi),
        *page_routes(),
        # Answered before the routes; they stand here for the other methods, which get a 405.
        *_routes(
            "POST", [f"{place}/{verb}" for place in (model, version) for verb in ("infer", "classify")], _only_post
        ),
    ]
    # A Reply is an ASGI application, which is all that Starlette asks of an answer.
    handlers: dict[Any, Any] = {
        HTTPException: _no_such_page,
        ClientGoneError: _failed,
        DepsError: _failed,
        Exception: _failed,
    }
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Gate(app, access, inference)


def _routes(method: str, paths: list[str], endpoint: Endpoint) -> list[Route]:
    return [Route(path + slash, endpoint, methods=[method]) for path in paths for slash in ("", "/")]


async def _no_such_page(request: Request, error: Exception) -> Reply:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        return reply_to(no_such_page(path))
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return reply_to(wrong_method(request.method, path, ", ".join(sorted(allowed.split(", ")))))
    return error_reply(str(error.detail), error.status_code)


async def _failed(_: Request, error: Exception) -> Reply:
    return reply_to(error)


async def _only_post(_: Request) -> Reply:
    raise AssertionError("the gate answers every POST of these addresses")


class _Api:
    """One method an endpoint."""

    def __init__(self, repository: Repository, access: Access, max_body_bytes: int) -> None:
        self._repository = repository
        self._access = access
        self._max_body_bytes = max_body_bytes

    async def server(self, _: Request) -> Reply:
        return json_reply(server_metadata(deps_version()))

    async def live(self, _: Request) -> Reply:
        return Reply(200)

    async def ready(self, _: Request) -> Reply:
        return Reply(200 if self._repository.is_ready else 503)

    async def model(self, request: Request) -> Reply:
        served = self._served(request)
        with served.lease() as loaded:
            return json_reply(model_metadata(loaded.signatures[served.takes_raw], loaded.service.choice.backend))

    async def model_ready(self, request: Request) -> Reply:
        try:
            is_ready = self._repository.is_model_ready(self._served(request))
        except RefusedError as error:
            return Reply(error.status)
        return Reply(200 if is_ready else 503)

    async def config(self, request: Request) -> Reply:
        return json_reply(self._repository.config(self._served(request)))

    async def statistics(self, request: Request) -> Reply:
        return json_reply(self._repository.statistics([self._served(request)]))

    async def all_statistics(self, _: Request) -> Reply:
        return json_reply(self._repository.statistics(self._repository.served.values()))

    async def subnets(self, request: Request) -> Reply:
        served = self._served(request)
        with served.lease() as loaded:
            return json_reply(family_description(served.name, loaded.service, served.statistics))

    async def index(self, request: Request) -> Reply:
        asked = parse_control(await self._body(request), {"ready": bool, "repository_name": str})
        await self._repository.look_again()
        return json_reply(self._repository.index(only_ready=asked.get("ready", False)))

    async def load(self, request: Request) -> Reply:
        self._access.check_control()
        parse_control(await self._body(request), {})
        await self._repository.load(request.path_params["name"])
        return Reply(200)

    async def unload(self, request: Request) -> Reply:
        self._access.check_control()
        parse_control(await self._body(request), {}, parameters={"unload_dependents": bool})
        await self._repository.unload(request.path_params["name"])
        return Reply(200)

    async def metrics(self, _: Request) -> Reply:
        return Reply(200, metrics_text(self._repository).encode(), ((b"content-type", CONTENT_TYPE.encode()),))

    async def openapi(self, _: Request) -> Reply:
        return json_reply(openapi(self._repository, needs_token=self._access.token is not None))

    def _served(self, request: Request) -> Served:
        return self._repository.find(request.path_params["name"], request.path_params.get("version"))

    async def _body(self, request: Request) -> bytes | memoryview:
        return await read_body(request.receive, dict(request.scope["headers"]), self._max_body_bytes)
