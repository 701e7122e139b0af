"""``deps-profile memory`` as users meet it."""

from __future__ import annotations

import json

import onnxruntime
import pytest

from deps.profile.cli import main


def test_memory_is_one_object_with_prediction_and_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts compare the two."""
    assert main(["memory", "--space", "digits", "--arch", "smallest", "--batch", "4", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (row,) = answer["subnets"]
    assert answer["batch"] == 4
    assert row["predicted_bytes"] == row["activation_bytes"] + row["weight_bytes"]
    assert set(row["measured"]) == {"peak_bytes", "resident_bytes", "gpu_bytes", "reason"}


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="a GPU can be used here")
def test_missing_gpu_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The reason comes from another process, and is told as if it came from this one."""
    assert main(["memory", "--space", "digits", "--arch", "smallest", "--device", "cuda"]) == 1
    error = capsys.readouterr().err
    assert "this onnxruntime has no CUDAExecutionProvider" in error
    assert "install onnxruntime-gpu" in error
    assert "Traceback" not in error
