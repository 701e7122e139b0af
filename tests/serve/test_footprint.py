"""Each engine of a bundle is weighed in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deps.serve.cli import main


def test_bench_tells_memory_and_energy_or_why_not(
    make_bundle: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever picks a subnet for a small device asks for both; an absent sensor is said, never a zero."""
    words = ["bench", str(make_bundle("cpu")), "--batches", "1,2", "--seconds", "0.01", "--subnet", "small"]
    assert main([*words, "--memory", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {(one["subnet"], one["batch"]) for one in report["memory"]} == {("small", 2)}
    for one in report["memory"]:
        peak = one["footprint"]["peak_bytes"]
        assert peak is None or peak > 0
    for timing in report["timings"]:
        joules = timing["joules_per_image"]
        assert joules is None or joules > 0
        if joules is None:
            assert report["energy"].startswith("not measured: ")
        else:
            assert not report["energy"].startswith("not measured")
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "\nenergy: " in text
    assert "peak memory" not in text
