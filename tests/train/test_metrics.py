"""Records are kept with TensorBoard or without."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deps.ground.console import Story
from deps.train.metrics import MetricsLog, read_metrics


def test_without_tensorboard_the_records_stand_in_the_file_and_it_is_said(tmp_path: Path, monkeypatch, capsys):
    """It is an extra: a server that trains at night needs none."""
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with MetricsLog(tmp_path, Story(), length=0, step=0) as log:
        log.append(4, {"epoch": 1, "lr": 0.1})
    assert read_metrics(tmp_path) == [{"epoch": 1, "lr": 0.1}]
    assert not (tmp_path / "tensorboard").exists()
    assert (
        "tensorboard is not installed; install it with: pip install 'deps-ofa[tensorboard]'" in capsys.readouterr().err
    )


def test_tensorboard_gets_the_numbers(tmp_path: Path):
    """Its own reader finds them at their step; a resumed run takes back what it will write again."""
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step, length in ((0, 0), (4, 0)):
        with MetricsLog(tmp_path, Story(), length=length, step=step) as log:
            log.append(4, {"epoch": 1, "lr": 0.1 + step})
    (record,) = read_metrics(tmp_path)
    assert record == {"epoch": 1, "lr": 4.1}
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert board.Tags()["scalars"] == ["lr"]
    assert [(event.step, round(event.value, 4)) for event in board.Scalars("lr")] == [(4, 4.1)]
