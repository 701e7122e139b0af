"""Where the server listens: loopback is told from the rest, and an address that cannot be had is said plainly."""

from __future__ import annotations

import socket

import pytest

from deps.ground.errors import AddressError
from deps.serve.server import is_loopback, listen, url_of


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("example.org", False),
    ],
)
def test_loopback_is_told_from_the_rest(host: str, expected: bool):
    """Everything else gets a warning, so nothing else may count as loopback."""
    assert is_loopback(host) is expected


def test_port_zero_is_a_real_port():
    """The address that is printed must be one that can be opened."""
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert url_of(bound) == f"http://127.0.0.1:{port}"
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_taken_port_is_named():
    """The commonest failure at a start."""
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(AddressError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "a" * 300])
def test_foreign_host_is_refused(host: str):
    """An address of another machine, and names that are none."""
    with pytest.raises(AddressError, match="expected"):
        listen(host, 0)
