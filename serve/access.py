"""Who may ask: a token, compared in constant time, and no pages of other sites.

Relies on nothing of the web but header names. Health needs no token, so that a load balancer can ask for it: it tells
nothing but that a server is there.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deps.ground.errors import FileError
from deps.serve.refusals import RefusedError

TOKEN_VARIABLE = "DEPS_SERVE_TOKEN"
MIN_TOKEN_LENGTH = 8

# Answered to anybody: they say that a server is there, and the page's own files, which hold no secrets.
OPEN_PATHS = ("/v2/health/live", "/v2/health/ready", "/", "/page")


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one server."""

    token: str | None = None
    """What a request must show as ``Authorization: Bearer …``; None lets everybody in."""

    may_control: bool = True
    """Whether requests may load and unload models."""

    def check(self, path: str, method: str, *, authorization: str | None, origin: str | None, host: str | None) -> None:
        """Let a request pass.

        Args:
            path: its address.
            method: its method.
            authorization: the header of that name.
            origin: the header of that name, which browsers send from pages.
            host: the header of that name.

        Raises:
            RefusedError: no token or a wrong one (401), from a page of another site (403), or not allowed here (403).
        """
        if origin is not None and method not in ("GET", "HEAD") and _host_of(origin) != host:
            raise RefusedError(
                f"the request comes from a page of {origin[:100]!r}; expected one of this server, or no page",
                status=403,
            )
        if self.token is not None and not _is_open(path) and not self._is_token(authorization):
            raise RefusedError(
                "the token is missing or wrong; expected the header 'Authorization: Bearer TOKEN' with the server's",
                status=401,
            )

    def check_control(self) -> None:
        """Let a request load or unload.

        Raises:
            RefusedError: strangers may reach this server, and it has no token; 403.
        """
        if not self.may_control:
            raise RefusedError(
                "models are not loaded or unloaded on an open address without a token; expected --token, or loopback",
                status=403,
            )

    def _is_token(self, authorization: str | None) -> bool:
        assert self.token is not None
        scheme, _, shown = (authorization or "").partition(" ")
        # Both sides are compared as bytes and whole, so that the time tells nothing of where they differ.
        is_same = hmac.compare_digest(shown.strip().encode("utf-8", "surrogateescape"), self.token.encode())
        return scheme.lower() == "bearer" and is_same


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None  # such as http://[; no browser sends it


def _is_open(path: str) -> bool:
    return path.rstrip("/") in ("", *OPEN_PATHS) or path.startswith("/page/")


def read_token(token: str | None, file: Path | None) -> str | None:
    """Return the token that was given, or that a file or ``$DEPS_SERVE_TOKEN`` holds; None when there is none.

    Raises:
        FileError: the file cannot be read, or the token is empty, short, or holds what no header can carry.
    """
    where = "--token"
    if token is None and file is not None:
        where = str(file)
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as error:
            raise FileError(f"{file} cannot be read ({error}); expected a file that holds the token") from error
    if token is None and TOKEN_VARIABLE in os.environ:
        where, token = f"${TOKEN_VARIABLE}", os.environ[TOKEN_VARIABLE].strip()
    if token is None:
        return None
    if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise FileError(
            f"the token of {where} is empty, short or holds odd characters; expected at least {MIN_TOKEN_LENGTH} "
            "letters, digits and signs; make one with: openssl rand -hex 16"
        )
    return token
