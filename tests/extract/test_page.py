"""The report is one page that works anywhere: whole in itself, well-formed, and true to the numbers."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from deps.extract import drawing
from deps.extract.budget import AXES
from deps.extract.bundle import Costs, Member
from deps.extract.drawing import Series
from deps.extract.page import Page, page_html
from deps.extract.report import Landscape
from deps.profile.flops import count
from deps.serve.manifest import Latency
from deps.serve.targets import get_target
from deps.supernet import ArchSpec, get_space, space_names
from deps.supernet.plan import plan

VOID = {"meta", "link", "br", "img"}


class Checker(HTMLParser):
    """Fails where tags do not match; keeps the text and the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, _tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def member(digits, smallest, exports) -> Member:
    """The smallest subnet, with a latency that was foretold."""
    costs = Costs(**count(digits, smallest).to_dict())
    latency = {"cpu": Latency(predicted_ms=0.05, error_ms=0.01)}
    return Member(name="small <one>", arch=smallest, costs=costs, exports=exports, latency=latency)


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    """Few subnets that were measured."""
    return Landscape(
        axis=AXES[0],
        bound=500_000,
        sample_costs=np.array([2e5, 4e5, 6e5]),
        sample_accuracies=np.array([0.9, 0.93, 0.95]),
        front_costs=np.array([2e5, 5e5]),
        front_accuracies=np.array([0.91, 0.95]),
        finalist_costs=np.array([4.5e5]),
        finalist_accuracies=np.array([0.94]),
        chosen_cost=4e5,
        chosen_accuracy=0.945,
        noise=0.01,
    )


@pytest.fixture(scope="module")
def page(digits, member, landscape, table) -> Page:
    """A page with everything on it."""
    return Page(
        title="a & b",
        target=get_target("cpu"),
        budget="500k FLOPs",
        space=digits,
        members=(member, member),
        landscape=landscape,
        table=table,
        run="digits",
        notes=("a note with <angles>",),
    )


def test_the_page_is_well_formed_and_asks_for_nothing_from_outside(page):
    """It is opened from a device without a network, years later."""
    text = page_html(page)
    checker = parsed(text)
    names = {name for name, _ in checker.attributes}
    assert not names & {"src", "href", "onclick", "srcset"}
    assert "<script" not in text
    assert not re.search(r"https?://|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_the_page_says_what_the_exports_say_and_escapes_names(page, exports):
    """Accuracies of every precision, on how many images, and what was noted."""
    text = " ".join(parsed(page_html(page)).text)
    for entry in exports.entries:
        assert entry.precision in text
        assert f"{100 * entry.validation.top1:.2f} %" in text
    for words in ("small <one>", "a note with <angles>", "run on 300 validation and 300 test images", "0.05 ms", "cpu"):
        assert words in text
    assert "<one>" not in page_html(page)


def test_without_measurements_and_a_table_the_rest_is_shown(page, member):
    """Multiply-adds stand for time, and nothing is invented."""
    from dataclasses import replace

    bare = replace(page, landscape=None, table=None, members=(replace(member, latency={}),), notes=())
    text = page_html(bare)
    parsed(text)
    assert "Chosen among" not in text
    assert "multiply-adds, %" in text
    assert "time on cpu, %" in page_html(page)
    assert "<h2>Latency" not in text
    assert page_html(bare) == text


@pytest.mark.parametrize("name", space_names())
def test_every_kind_of_network_is_drawn_block_by_block(name):
    """One block a piece, whatever the family, and shares that add up to the whole."""
    space = get_space(name)
    subnet = plan(space, ArchSpec.largest(space))
    pieces = list(subnet.pieces())
    total = sum(piece.macs for piece in pieces)
    text = drawing.subnet(subnet, [piece.macs / total for piece in pieces], "multiply-adds, %")
    parsed(text)
    assert text.count('<rect class="block') == len(pieces)
    assert text.count('<rect class="share"') == len(pieces)
    heights = [float(height) for height in re.findall(r'class="share"[^>]* height="([\d.]+)"', text)]
    assert max(heights) == pytest.approx(96)
    assert sum(heights) == pytest.approx(96 * total / max(piece.macs for piece in pieces), abs=0.1 * len(pieces))


@pytest.mark.parametrize("values", [(0.0, 1.0), (5.0, 5.0), (1e-6, 3e-6), (2e8, 6e8), (-3.0, 4.0)])
def test_ticks_are_round_and_span_the_values(values):
    """A single value gets an axis too."""
    found = drawing.ticks(*values)
    assert found[0] <= values[0] <= values[1] <= found[-1]
    assert 2 <= len(found) <= 9
    assert found == sorted(set(found))


def test_points_are_drawn_inside_the_frame():
    """Also those on its edges."""
    text = drawing.scatter(
        [Series("sample", [1.0, 2.0, 3.0], [0.1, 0.2, 0.9], 3)],
        x_label="x",
        y_label="y",
        write_x=lambda value: f"{value:g}",
        bound=2.5,
    )
    marks = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', text)
    assert len(marks) == 3
    assert all(58 <= float(x) <= 744 and 16 <= float(y) <= 354 for x, y in marks)
    assert 'class="bound"' in text
