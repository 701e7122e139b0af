"""Engines of kit nets are built by the code that builds a bundle's; running them needs the GPU."""

from __future__ import annotations

import pytest

from deps.ground.console import Story
from deps.profile.backends import open_backend
from deps.profile.backends.base import Conditions
from deps.profile.kit import Kit
from deps.profile.measure import MeasureSettings
from deps.profile.table import measure_kit
from deps.serve.engines.cudart import why_no_gpu
from deps.serve.engines.header import read_header
from deps.serve.targets import get_target


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp16", "trt-int8"])
def test_kit_nets_become_engines_with_weights_from_the_shared_file(kit: Kit, precision: str) -> None:
    """TensorRT for RTX builds without a GPU; weights lie beside the model, which its parser must be told."""
    pytest.importorskip("tensorrt_rtx")
    from deps.profile.backends.tensorrt import build_net

    conditions = Conditions(precision)  # type: ignore[arg-type]
    for net in (next(kit.at(8, "anchor")), kit.probe):
        built, file = build_net(kit.path(net, conditions.precision), conditions, get_target("rtx"))
        assert read_header(built.engine).flavour == file.runtime == "tensorrt_rtx"
        assert file.size_bytes == len(built.engine) > 10_000
        assert file.profile.max == 1


@pytest.mark.gpu
@pytest.mark.skipif(why_no_gpu() is not None, reason=f"no GPU: {why_no_gpu()}")
@pytest.mark.tensorrt
def test_gpu_makes_a_table(kit: Kit) -> None:
    """The whole way, where there is a GPU."""
    conditions = Conditions("fp16")
    backend = open_backend("tensorrt", conditions, get_target("rtx"))
    settings = MeasureSettings(conditions, seconds=0.2, max_unsteadiness=float("inf"))
    table = measure_kit(kit, backend, settings, Story(quiet=True))
    assert table.device["gpu_name"]
    assert all(check.measured_ms > 0 for check in table.held_out)
