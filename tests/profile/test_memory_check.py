"""Predicted memory is the least that a real session takes."""

from __future__ import annotations

import pytest

from deps.profile.memory import activation_bytes, weight_bytes
from deps.profile.memory_check import MemoryReport, memory_of
from deps.supernet import ArchSpec, get_space
from deps.supernet.plan import plan

BATCH = 1024


def test_a_session_takes_at_least_what_was_predicted() -> None:
    """With many images feature maps outweigh all else, and the closed form must show in what the kernel counts."""
    space = get_space("digits")
    arch = ArchSpec.largest(space)
    one = memory_of(space, "largest", arch, batch=BATCH)
    assert one.activation_bytes == BATCH * activation_bytes(plan(space, arch))
    assert one.weight_bytes == weight_bytes(plan(space, arch))
    if one.footprint.peak_bytes is None:
        pytest.skip(f"this system tells no memory: {one.footprint.reason}")
    assert one.predicted_bytes < one.footprint.peak_bytes < 6 * one.predicted_bytes
    report = MemoryReport(space="digits", batch=BATCH, threads=1, device="cpu", subnets=(one,))
    assert report.to_dict()["subnets"][0]["measured"]["peak_bytes"] == one.footprint.peak_bytes
    assert "batch 1024" in report.to_text()
