"""Who may ask: a wrong token, a page of another site, and control on an open address are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deps.ground.errors import FileError
from deps.serve.access import TOKEN_VARIABLE, Access, read_token
from deps.serve.refusals import RefusedError

TOKEN = "a-secret-of-some-length"


def _status(access: Access, path: str = "/v2/models/tiny/infer", method: str = "POST", **headers: str | None) -> int:
    told: dict[str, str | None] = {"authorization": None, "origin": None, "host": "here:8000", **headers}
    try:
        access.check(path, method, **told)
    except RefusedError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (None, 401),
        ("", 401),
        (TOKEN, 401),
        ("Bearer", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer \xff\xfe", 401),
    ],
)
def test_only_the_token_opens(authorization: str | None, status: int):
    """Whole and exact, under its scheme."""
    assert _status(Access(token=TOKEN), authorization=authorization) == status


@pytest.mark.parametrize("shown", [TOKEN, TOKEN[:-1] + "x", "x" + TOKEN[1:], "x"])
def test_the_token_is_compared_in_constant_time(shown: str, monkeypatch: pytest.MonkeyPatch):
    """By the library's function for it, whole: a comparison that ends at the first difference tells where that is."""
    compared = []

    def watched(one: bytes, other: bytes) -> bool:
        compared.append({one, other})
        return one == other

    monkeypatch.setattr("hmac.compare_digest", watched)
    assert _status(Access(token=TOKEN), authorization=f"Bearer {shown}") == (200 if shown == TOKEN else 401)
    assert compared == [{shown.encode(), TOKEN.encode()}]


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready/", "/", "/page/app.js"])
def test_health_and_the_page_need_no_token(path: str):
    """A load balancer has none, and a page must load before anybody can type one in."""
    assert _status(Access(token=TOKEN), path, "GET") == 200


@pytest.mark.parametrize("path", ["/v2", "/metrics", "/openapi.json", "/v2/models/tiny", "/pages", "/v2/health/livex"])
def test_everything_else_needs_it(path: str):
    """What is not listed as open is closed."""
    assert _status(Access(token=TOKEN), path, "GET") == 401


@pytest.mark.parametrize(
    ("origin", "method", "status"),
    [
        ("http://here:8000", "POST", 200),
        ("http://evil.example", "POST", 403),
        ("http://evil.example", "DELETE", 403),
        ("null", "POST", 403),
        ("http://[", "POST", 403),
        ("http://evil.example", "GET", 200),
    ],
)
def test_pages_of_other_sites_change_nothing(origin: str, method: str, status: int):
    """Any page in a browser on this machine can reach loopback; it must not unload models."""
    assert _status(Access(), method=method, origin=origin) == status


def test_control_needs_loopback_or_a_token():
    """Strangers who may ask for classes must not unload the model."""
    Access().check_control()
    with pytest.raises(RefusedError, match="--token") as caught:
        Access(may_control=False).check_control()
    assert caught.value.status == 403


def test_token_comes_from_flag_file_or_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The last two keep it out of the list of processes."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None, None) is None
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(None, file) == TOKEN
    monkeypatch.setitem(os.environ, TOKEN_VARIABLE, "another-secret")
    assert read_token(None, None) == "another-secret"
    assert read_token(TOKEN, file) == TOKEN


@pytest.mark.parametrize("token", ["", "short", "has a space in it", "ünicode-secret", "line\nbreak-secret"])
def test_token_that_is_none_is_refused(token: str):
    """An empty file must not make an open server."""
    with pytest.raises(FileError, match="openssl rand"):
        read_token(token, None)


def test_unreadable_token_file_is_named(tmp_path: Path):
    """A typing error must not make an open server either."""
    with pytest.raises(FileError, match="absent cannot be read"):
        read_token(None, tmp_path / "absent")
