"""The page at ``/``: where a person drops a picture and sees the classes, the subnet that answered, and the load.

Relies on the files beside this one and on the server's own paths alone: it works without any network but this machine.
"""

from __future__ import annotations

import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

# Nothing foreign runs, and nothing leaves: pictures are shown from memory (blob:) and sent to this server only.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_routes() -> list[Route]:
    """Return the routes of the page and of its files, each of which is read once."""
    return [_route("/" if name == "index.html" else f"/page/{name}", name) for name in _TYPES]


def _route(path: str, name: str) -> Route:
    content = resources.files("deps.serve.page").joinpath(name).read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {
        "ETag": etag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }

    async def send(request: Request) -> Response:
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=_TYPES[name])

    return Route(path, send, methods=["GET"], name=f"page {name}")
