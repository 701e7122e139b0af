"""How much a client may send, and how long it may take.

Relies on nothing; every number has a reason, and tests set smaller ones.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one server grants its clients."""

    max_body_bytes: int = 32 * 2**20
    """Largest body; one that announces more is refused unread."""

    max_head_bytes: int = 32 * 2**10
    """Longest request line and headers together."""

    max_held_bytes: int = 256 * 2**20
    """Bodies of all clients together, arriving or waiting for their answer; beyond it requests are refused with 503."""

    max_connections: int = 1000
    """Connections at a time; most systems give a process 1024 files."""

    head_s: float = 15.0
    """Longest time for a head, from its first byte."""

    idle_s: float = 75.0
    """Longest rest between two requests of a connection."""

    body_s: float = 30.0
    """Time for a body, in addition to what it takes at ``body_rate``."""

    body_rate: int = 32 * 2**10
    """Bytes a second that a body must arrive with."""

    write_s: float = 60.0
    """Longest time for a client to take what was written for it."""

    linger_s: float = 2.0
    """After a refusal that closes the connection, how long what still arrives is thrown away, so that the client can
    read why."""
