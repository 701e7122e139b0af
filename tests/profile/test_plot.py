"""Pictures of predicted against measured show every net, on a page and on a terminal."""

from __future__ import annotations

from xml.etree import ElementTree

from deps.profile.latency import Check
from deps.profile.plot import scatter_svg, scatter_text

CHECKS = tuple(Check(r, 1000, r / 100 + 0.2 * i, r / 100 + 0.21 * i) for r in (128, 224) for i in range(5))


def test_svg_has_a_point_for_each_net() -> None:
    """The file is XML that any browser draws, whatever stands in the title."""
    root = ElementTree.fromstring(scatter_svg(CHECKS, "a < b & c"))
    points = root.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(points) == len(CHECKS)
    assert all(0 <= float(point.attrib[axis]) <= 460 for point in points for axis in ("cx", "cy"))


def test_text_marks_each_resolution() -> None:
    """On a board there is only a terminal."""
    text = scatter_text(CHECKS)
    assert text.count("o") >= 4
    assert text.count("+") >= 4
    assert max(map(len, text.splitlines())) <= 80


def test_single_time_is_drawn_too() -> None:
    """A table may be judged by one net, and a range of nothing must not divide by zero."""
    one = (Check(8, 10, 2.0, 2.0),)
    assert "o" in scatter_text(one)
    assert "circle" in scatter_svg(one, "one")
