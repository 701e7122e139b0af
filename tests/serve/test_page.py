"""The page at /, in a real Chromium: upload, answer, deadline, error, narrow screen and keyboard alone."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deps.serve.access import Access
from deps.serve.service import ServeOptions
from running import Running, running

FILES = {"/": "text/html", "/page/page.css": "text/css", "/page/page.js": "text/javascript", "/page/icon.svg": "image"}
TOKEN = "a-token-for-the-page"


@pytest.fixture(scope="module")
def server(make_bundle: Callable[..., Path]) -> Iterator[Running]:
    with running(make_bundle(), options=ServeOptions(max_batch=4, num_threads=1)) as server:
        yield server


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "seven.png"
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its driver; on Debian: apt install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1200,1000",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def _find(browser: Any, css: str) -> Any:
    return browser.find_element("css selector", css)


def _wait(browser: Any, condition: Callable[[], Any]) -> Any:
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.wait import WebDriverWait

    # The page draws its lists anew, so an element may vanish between being found and being read.
    waiting = WebDriverWait(browser, 20, poll_frequency=0.05, ignored_exceptions=(StaleElementReferenceException,))
    return waiting.until(lambda _: condition())


def _texts(browser: Any, css: str) -> list[str]:
    """Return what is to be read there, in one question: the page may draw its lists anew between two."""
    return browser.execute_script(
        "return Array.from(document.querySelectorAll(arguments[0]), element => element.innerText.trim())", css
    )


def _attribute(browser: Any, css: str, name: str) -> str:
    """Return an attribute of what may be drawn anew at any time."""
    return browser.execute_script("return document.querySelector(arguments[0]).getAttribute(arguments[1])", css, name)


def _open(browser: Any, server: Running) -> None:
    browser.get(server.url + "/")
    _wait(browser, lambda: _find(browser, "#health-text").text == "ready")


def _upload(browser: Any, path: Path) -> None:
    _find(browser, "#file").send_keys(str(path))


def _settled(server: Running) -> int:
    """Requests that were answered or refused so far."""
    told = server.client.get("/v2/models/tiny/subnets").json()
    return told["requests"] + told["refused"]


def _set_deadline(browser: Any, step: int) -> None:
    browser.execute_script(
        "const slider = document.getElementById('deadline'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input'));",
        step,
    )


@pytest.mark.parametrize(("path", "kind"), FILES.items())
def test_every_file_of_the_page_comes_with_its_type_and_policy(server: Running, path: str, kind: str):
    """A browser refuses scripts of another type, and the policy is what keeps foreign ones out."""
    answer = server.client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    again = server.client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_names_no_other_place(server: Running):
    """It must work on a device without a network."""
    for path in FILES:
        text = server.client.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.[a-z]", text), path


def test_subnets_are_told_with_their_costs_and_counts(server: Running, picture: Path):
    """The page's table, and a person's script, need no knowledge of the bundle's files."""
    before = server.client.get("/v2/models/tiny/subnets").json()
    assert [subnet["name"] for subnet in before["subnets"]] == ["large", "small"]
    assert [subnet["accuracy"] for subnet in before["subnets"]] == [0.75, 0.5]
    assert all(subnet["latency_ms"] > 0 for subnet in before["subnets"])
    answer = server.client.post(
        "/v2/models/tiny/classify", content=picture.read_bytes(), headers={"Content-Type": "image/png"}
    )
    assert re.fullmatch(r"queue;dur=[\d.]+, engine;dur=[\d.]+", answer.headers["server-timing"])
    after = server.client.get("/v2/models/tiny/subnets").json()
    assert after["images"] == before["images"] + 1
    assert after["seconds"] > before["seconds"]


def test_a_picture_is_answered_with_what_the_api_says(browser: Any, server: Running, picture: Path):
    """What a person sees is what a program gets: the same classes, in the same order, from the subnet that is named."""
    _open(browser, server)
    _upload(browser, picture)
    _wait(browser, lambda: len(_texts(browser, "#classes li")) == 5)
    expected = server.client.post(
        "/v2/models/tiny/classify", content=picture.read_bytes(), headers={"Content-Type": "image/png"}
    ).json()
    assert _texts(browser, "#classes .label") == [entry["label"] for entry in expected["classes"]]
    shares = [f"{100 * entry['score']:.1f} %" for entry in expected["classes"]]
    assert _texts(browser, "#classes .share") == shares
    assert _find(browser, "#by-subnet").text == expected["parameters"]["subnet"] == "large"
    assert re.fullmatch(r"[\d.]+ ms", _find(browser, "#round-trip").text)
    assert re.fullmatch(r"[\d.]+ ms \+ [\d.]+ ms", _find(browser, "#inside").text)
    assert _find(browser, "#preview").is_displayed()
    assert _texts(browser, "#family tr.chosen th") == ["large"]


@pytest.mark.parametrize("size", [(60, 300), (300, 60), (8, 8), (2000, 2000)])
def test_the_picture_is_shown_whole(browser: Any, server: Running, tmp_path: Path, size: tuple[int, int]):
    """Who sees half of a digit wonders at the answer."""
    path = tmp_path / "picture.png"
    Image.new("L", size, 200).save(path)
    _open(browser, server)
    _upload(browser, path)
    _wait(browser, lambda: _find(browser, "#preview").is_displayed() and _texts(browser, "#classes li"))
    frame, shown = _find(browser, "#drop").rect, _find(browser, "#preview").rect
    assert frame["y"] <= shown["y"]
    assert shown["y"] + shown["height"] <= frame["y"] + frame["height"]
    assert shown["width"] <= frame["width"]
    assert _find(browser, "#preview").value_of_css_property("object-fit") == "contain"


def test_a_deadline_that_nothing_meets_is_refused_in_words(browser: Any, server: Running, picture: Path):
    """The slider asks again by itself, and what the server says of the deadline is shown as it is."""
    _open(browser, server)
    _upload(browser, picture)
    _wait(browser, lambda: _texts(browser, "#classes li"))
    _set_deadline(browser, 0)
    message = _wait(browser, lambda: _find(browser, "#error").text)
    assert "expected" in message
    assert _find(browser, "#deadline").get_attribute("aria-valuetext").endswith(" ms")
    _set_deadline(browser, 100)
    _wait(browser, lambda: not _find(browser, "#error").is_displayed())
    assert _find(browser, "#deadline-value").text == "none"


def test_a_tighter_deadline_switches_to_the_faster_subnet(
    browser: Any, make_bundle: Callable[..., Path], tiny_wide: Any, picture: Path
):
    """What a family is for, made visible: less time, another subnet, marked in the table and on the scale."""
    with running(make_bundle(large=tiny_wide), options=ServeOptions(max_batch=1, num_threads=1)) as server:
        _open(browser, server)
        _upload(browser, picture)
        _wait(browser, lambda: _texts(browser, "#family tr.chosen th") == ["large"])
        times = [s["latency_ms"] for s in server.client.get("/v2/models/tiny/subnets").json()["subnets"]]
        assert times[0] > 5 * times[1]
        for step in [*range(95, 0, -5)] * 3:  # decoding takes its part of the time, on a busy machine now and then all
            before = _settled(server)
            _set_deadline(browser, step)
            _wait(browser, lambda before=before: _settled(server) > before)
            _wait(browser, lambda: _find(browser, "#answer").get_attribute("aria-busy") == "false")
            if _find(browser, "#by-subnet").text == "small":
                break
        assert _find(browser, "#by-subnet").text == "small"
        assert _attribute(browser, "#ticks .chosen", "title").startswith("small")


def test_keeping_on_asking_shows_the_load(browser: Any, server: Running, picture: Path):
    """Live figures are the server's own counts, not the page's guess."""
    _open(browser, server)
    _upload(browser, picture)
    _wait(browser, lambda: _texts(browser, "#classes li"))
    before = server.client.get("/v2/models/tiny/subnets").json()["images"]
    _find(browser, "#stream").click()
    _wait(browser, lambda: float(_find(browser, "#throughput").text) > 1)
    assert _find(browser, "#stream").get_attribute("aria-pressed") == "true"
    _find(browser, "#stream").click()
    assert server.client.get("/v2/models/tiny/subnets").json()["images"] > before + 1
    assert _attribute(browser, "#throughput-chart .line", "d").startswith("M")


def test_what_is_no_picture_is_refused_in_words(browser: Any, server: Running, tmp_path: Path):
    """A text file never leaves the browser; a damaged picture is named as such by the server."""
    text, damaged = tmp_path / "notes.txt", tmp_path / "damaged.png"
    text.write_text("not a picture")
    stream = io.BytesIO()
    Image.new("L", (64, 64)).save(stream, "PNG")
    damaged.write_bytes(stream.getvalue()[:60])
    _open(browser, server)
    _upload(browser, text)
    assert "drop a JPEG or PNG" in _wait(browser, lambda: _find(browser, "#error").text)
    assert not _find(browser, "#preview").is_displayed()
    _upload(browser, damaged)
    _wait(browser, lambda: "damaged" in _find(browser, "#error").text)


def test_the_keyboard_alone_is_enough(browser: Any, server: Running, picture: Path):
    """Tab reaches the picture, the buttons and the slider in this order; arrow keys move the deadline."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    _open(browser, server)
    _upload(browser, picture)
    _wait(browser, lambda: _texts(browser, "#classes li"))
    browser.execute_script("document.activeElement.blur(); getSelection().removeAllRanges();")
    reached = []
    for _ in range(4):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(browser.switch_to.active_element.get_attribute("id"))
    assert reached == ["file", "again", "stream", "deadline"]
    ActionChains(browser).send_keys(Keys.ARROW_LEFT).perform()
    assert _find(browser, "#deadline-value").text != "none"
    assert browser.switch_to.active_element.value_of_css_property("outline-style") == "solid"


def test_a_narrow_screen_needs_no_sideways_scrolling(browser: Any, server: Running, picture: Path):
    """A phone shows everything below each other."""
    size = browser.get_window_size()
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        _open(browser, server)
        _upload(browser, picture)
        _wait(browser, lambda: _texts(browser, "#classes li"))
        widths = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert widths == [360, 360]
        assert _find(browser, "#answer").rect["y"] > _find(browser, "#picture").rect["y"]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.set_window_size(size["width"], size["height"])


def test_a_server_with_a_token_asks_for_it_once(browser: Any, make_bundle: Callable[..., Path], picture: Path):
    """The page itself holds no secret, so it opens; everything behind it needs the token, typed in once."""
    options = ServeOptions(subnet="large", max_batch=4, num_threads=1)
    with running(make_bundle(), options=options, access=Access(token=TOKEN)) as guarded:
        browser.get(guarded.url + "/")
        _wait(browser, lambda: _find(browser, "#door").is_displayed())
        _find(browser, "#token").send_keys(TOKEN)
        _find(browser, "#door button").click()
        _wait(browser, lambda: _find(browser, "#health-text").text == "ready")
        assert not _find(browser, "#door").is_displayed()
        _upload(browser, picture)
        _wait(browser, lambda: len(_texts(browser, "#classes li")) == 5)
        browser.execute_script("sessionStorage.clear()")


def test_the_browser_has_nothing_to_complain_of(browser: Any, server: Running, picture: Path):
    """No error of the script, no blocked file, no broken address."""
    browser.get_log("browser")
    _open(browser, server)
    _upload(browser, picture)
    _wait(browser, lambda: _texts(browser, "#classes li"))
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
