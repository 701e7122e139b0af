"""The outermost part of the application: it turns strangers away, and sends inference past the routes.

Relies on ``access.py`` for who may ask, and on ``inference.py`` for what carries the load; the rest is ``http.py``'s. A
large body is only taken in once ``screen`` has seen whose it is and where it goes.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.applications import Starlette
from starlette.routing import Match, Route

from deps.serve.access import Access
from deps.serve.direct import direct_handler
from deps.serve.front.exchange import Handler
from deps.serve.front.head import Head
from deps.serve.inference import Inference, target_of
from deps.serve.refusals import RefusedError, no_such_page, wrong_method
from deps.serve.replies import Receive, Scope, Send, reply_to


class Gate:
    """Turns strangers away, and sends what carries the load past the routes."""

    def __init__(self, app: Starlette, access: Access, inference: Inference) -> None:
        self._app = app
        self._access = access
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the application's start and end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except RefusedError as error:
            await reply_to(error)(scope, receive, send)
            return
        target = target_of(scope["path"]) if scope["method"] == "POST" else None
        if target is None:
            await self._app(scope, receive, send)
        else:
            await self._inference(target, scope, receive, send)

    def screen(self, scope: Scope) -> None:
        """Let the body of a request come.

        Raises:
            RefusedError: a stranger's (401, 403), there is nothing at its address (404) or for its method (405),
                or its headers alone make inference impossible (4xx, 503).
        """
        self._check(scope)
        target = target_of(scope["path"]) if scope["method"] == "POST" else None
        if target is not None:
            self._inference.screen(target, scope["headers"])
            return
        matches = {route.matches(scope)[0]: route for route in reversed(self._app.routes)}
        if Match.FULL in matches:
            return
        route = matches.get(Match.PARTIAL)
        if isinstance(route, Route):
            raise wrong_method(scope["method"], scope["path"], ", ".join(sorted(route.methods or ())))
        raise no_such_page(scope["path"])

    def handler_of(self, head: Head) -> Handler | None:
        """Return what answers requests with a head without a task: those who may ask, for what carries the load."""
        try:
            path = head.plain_path()
            self._check_head(path, head.method, head.headers)
        except RefusedError:
            return None
        target = target_of(path) if head.method == "POST" else None
        return None if target is None else direct_handler(self._inference, target, head)

    def _check(self, scope: Scope) -> None:
        self._check_head(scope["path"], scope["method"], scope["headers"])

    def _check_head(self, path: str, method: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        found: dict[bytes, str | None] = {b"authorization": None, b"origin": None, b"host": None}
        for name, value in headers:
            if name in found:
                found[name] = value.decode("latin-1")
        authorization, origin, host = found.values()
        self._access.check(path, method, authorization=authorization, origin=origin, host=host)
