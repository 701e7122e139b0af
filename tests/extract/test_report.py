"""The pictures are drawn for every axis and every odd landscape."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from deps.extract.budget import AXES
from deps.extract.report import Landscape, plot_png, plot_text


def landscape(axis, *, bound, scale) -> Landscape:
    draws = np.random.default_rng(0)
    return Landscape(
        axis=axis,
        bound=bound,
        sample_costs=draws.uniform(1, 3, 30) * scale,
        sample_accuracies=draws.uniform(0.8, 0.9, 30),
        front_costs=np.array([1.0, 2.0, 3.0]) * scale,
        front_accuracies=np.array([0.8, 0.88, 0.9]),
        finalist_costs=np.array([1.9, 2.0]) * scale,
        finalist_accuracies=np.array([0.87, 0.89]),
        chosen_cost=2.0 * scale,
        chosen_accuracy=0.89,
        noise=0.01,
    )


@pytest.mark.parametrize(("axis", "reach"), list(zip(AXES, (None, 2.1, 1000.0, 2.1, None), strict=True)))
def test_a_landscape_is_drawn(axis, reach):
    """With the budget in sight, far away, or absent."""
    scale = 0.01 if axis.key == "latency" else 1e6
    view = landscape(axis, bound=None if reach is None else reach * scale, scale=scale)
    png = plot_png(view, "a subnet")
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert width > 900
    assert height > 600
    assert png == plot_png(view, "a subnet")


def test_the_text_plot_fits_a_terminal_and_marks_the_chosen():
    """80 columns, no escape codes, one X."""
    text = plot_text(landscape(AXES[0], bound=None, scale=1e6))
    *drawing, legend = text.splitlines()
    assert max(map(len, drawing)) <= 80
    assert "\x1b" not in text
    assert sum(line.count("X") for line in drawing) == 1
    assert "X chosen" in legend
    assert "FLOPs, M" in text


def test_a_single_subnet_is_drawn_without_complaint():
    """A space or a budget may leave no choice."""
    view = landscape(AXES[0], bound=None, scale=1e6)
    one = np.array([2e6])
    lonely = Landscape(
        axis=view.axis,
        bound=2e6,
        sample_costs=one,
        sample_accuracies=np.array([0.5]),
        front_costs=one,
        front_accuracies=np.array([0.5]),
        finalist_costs=one,
        finalist_accuracies=np.array([0.5]),
        chosen_cost=2e6,
        chosen_accuracy=0.5,
        noise=0.0,
    )
    assert plot_png(lonely, "alone")
    assert "X" in plot_text(lonely)
