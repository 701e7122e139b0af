"""Refusals: requests that are not answered, each with the HTTP status that says why.

Relies on nothing of the web: the protocol, the runner and the pictures refuse, and ``http.py`` only passes it on.
"""

from __future__ import annotations

from deps.ground.errors import RequestError
from deps.ground.units import format_bytes


class RefusedError(RequestError):
    """A request that is refused; 400 unless something else fits better."""

    def __init__(
        self, message: str, *, status: int = 400, retry_after_s: int | None = None, allow: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status."""

        self.retry_after_s = retry_after_s
        """Whole seconds after which trying again makes sense; None when it does not."""

        self.allow = allow
        """Methods that are answered at the address; None when that is not what is wrong."""

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return what the head of the response says of it."""
        found = []
        if self.retry_after_s is not None:
            found.append((b"retry-after", b"%d" % self.retry_after_s))
        if self.status == 401:
            found.append((b"www-authenticate", b"Bearer"))
        if self.allow is not None:
            found.append((b"allow", self.allow.encode()))
        return tuple(found)


class ClientGoneError(Exception):
    """The client hung up before its answer was there; nobody is told."""


def body_too_large(max_bytes: int) -> RefusedError:
    """Return the refusal of a body, or of what it decompresses to, that is over the limit."""
    limit = format_bytes(max_bytes)
    return RefusedError(f"the body is too large; expected at most {limit}; send fewer images at once", status=413)


def wrong_method(method: str, path: str, allow: str) -> RefusedError:
    """Return the refusal of a method that is not answered at an address.

    Args:
        method: that was used.
        path: the address.
        allow: the methods that are answered there, separated by commas.
    """
    return RefusedError(f"{method} is not answered at {path}; expected {allow}", status=405, allow=allow)


def no_such_page(path: str) -> RefusedError:
    """Return the refusal of an address at which there is nothing."""
    return RefusedError(
        f"there is nothing at {path}; expected a path of the protocol, such as /v2/health/ready", status=404
    )
