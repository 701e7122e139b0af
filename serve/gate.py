"""The outermost part of the application: it turns strangers away, and sends inference past the routes.

Relies on ``access.py`` for who may ask, and on ``inference.py`` for what carries the load; the rest is ``http.py``'s. A
large body is only taken in once ``screen`` has seen whose it is and where it goes.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Match

from deps.serve.access import Access
from deps.serve.inference import Inference, target_of
from deps.serve.refusals import RefusedError, no_such_page
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
            RefusedError: a stranger's (401, 403), or there is nothing at its address (404).
        """
        self._check(scope)
        target = target_of(scope["path"]) if scope["method"] == "POST" else None
        if target is not None:
            self._inference.find(target)
        elif all(route.matches(scope)[0] is Match.NONE for route in self._app.routes):
            raise no_such_page(scope["path"])

    def _check(self, scope: Scope) -> None:
        found: dict[bytes, str | None] = {b"authorization": None, b"origin": None, b"host": None}
        for name, value in scope["headers"]:
            if name in found:
                found[name] = value.decode("latin-1")
        authorization, origin, host = found.values()
        self._access.check(scope["path"], scope["method"], authorization=authorization, origin=origin, host=host)
