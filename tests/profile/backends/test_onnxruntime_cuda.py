"""ONNX Runtime on a GPU times pieces alone, where there is a GPU."""

from __future__ import annotations

import pytest

from deps.ground.console import Story
from deps.profile.backends import open_backend
from deps.profile.backends.base import Conditions
from deps.profile.kit import Kit
from deps.profile.measure import MeasureSettings
from deps.profile.table import measure_kit
from deps.serve.engines.cudart import why_no_gpu
from deps.serve.targets import get_target


@pytest.mark.gpu
@pytest.mark.skipif(why_no_gpu() is not None, reason=f"no GPU: {why_no_gpu()}")
def test_gpu_makes_a_table_of_blocks(kit: Kit) -> None:
    """Its profiler tells when kernels were launched, so pieces are timed alone."""
    backend = open_backend("onnxruntime-cuda", Conditions(), get_target("rtx"))
    table = measure_kit(kit, backend, MeasureSettings(seconds=0.2, max_unsteadiness=float("inf")), Story(quiet=True))
    assert table.sessions[0].source == "blocks"
