"""The backend that serves a target measures it, unless the user says otherwise; what cannot be is said in one line."""

from __future__ import annotations

import pytest

from deps.ground.errors import DepsError, LatencyTableError
from deps.profile.backends import BACKENDS, backend_names, choose, open_backend
from deps.profile.backends.base import Conditions
from deps.serve.engines.cudart import why_no_gpu
from deps.serve.targets import get_target, load_targets

needs_no_gpu = pytest.mark.skipif(why_no_gpu() is None, reason="this machine has a GPU")


def test_every_target_can_be_measured_with_what_serves_it() -> None:
    """A target without a way to a table would be a dead end."""
    for target in load_targets().values():
        names = backend_names(target)
        assert set(names) <= set(BACKENDS)
        name, precision = choose(target, None, None, target.precisions)
        assert name == names[0] == target.backends[0]
        assert precision in target.precisions


def test_user_may_choose(capsys: pytest.CaptureFixture[str]) -> None:
    """A workstation with a GPU and no TensorRT measures with torch."""
    assert choose(get_target("rtx"), "torch-cuda", None, ("fp16", "fp32")) == ("torch-cuda", "fp16")
    assert choose(get_target("cpu"), None, "cpu-int8", ("fp32", "cpu-int8")) == ("onnxruntime", "cpu-int8")


@pytest.mark.parametrize(
    ("backend", "precision", "message"),
    [
        ("mxnet", None, "backend is 'mxnet'; expected one of"),
        (None, "fp16", "onnxruntime runs fp32, cpu-int8, but fp16"),
    ],
)
def test_what_no_backend_runs_is_refused(backend: str | None, precision: str | None, message: str) -> None:
    """The message names the choices."""
    with pytest.raises(LatencyTableError, match=message):
        choose(get_target("cpu"), backend, precision, ("fp32",))


@needs_no_gpu
@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "onnxruntime"])
def test_missing_gpu_is_said_and_nothing_crashes(name: str) -> None:
    """TensorRT hands out objects around NULL without a GPU, so it must be asked for first."""
    with pytest.raises(DepsError, match="GPU"):
        open_backend(name, Conditions(precision="fp16"), get_target("rtx"))
