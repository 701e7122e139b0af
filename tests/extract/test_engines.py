"""Every file for TensorRT becomes an engine of TensorRT for RTX: for one image and for many, floats and bytes."""

from __future__ import annotations

import pytest

from deps.extract.raw_input import checked_raw_input
from deps.serve.engines.builder import BuildSettings, build_engine
from deps.serve.engines.compose import with_raw_input
from deps.serve.engines.header import check_engine
from deps.serve.manifest import BatchProfile

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
pytestmark = pytest.mark.tensorrt


@pytest.mark.parametrize("precision", ["fp32", "fp16", "trt-int8"])
@pytest.mark.parametrize("largest", [1, 8])
def test_an_engine_is_built_of_each_precision_and_batch_profile(exports, precision, largest):
    """With the very files that are shipped; int8 with its scales in the graph, fp16 where it is not quantised."""
    entry = next(entry for entry in exports.entries if entry.precision == precision)
    settings = BuildSettings(profile=BatchProfile(min=1, opt=1, max=largest), precision=precision)
    engine = build_engine(entry.content, settings, runtime="tensorrt_rtx").engine
    assert check_engine(engine, flavour="tensorrt_rtx", runtime_version=trt.__version__).size_bytes == len(engine)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "trt-int8"])
def test_raw_pixels_go_into_engines_too(exports, run, precision):
    """UINT8 in, whatever the precision behind it."""
    entry = next(entry for entry in exports.entries if entry.precision == precision)
    joined = with_raw_input(entry.content, checked_raw_input(run.data().preprocessing))
    settings = BuildSettings(profile=BatchProfile(min=1, opt=1, max=4), precision=precision)
    assert build_engine(joined, settings, runtime="tensorrt_rtx").engine
