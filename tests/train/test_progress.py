"""A person who watches sees how far a training is; a log file holds lines alone."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import threading
from pathlib import Path

from .fork_server import ForkServer

FLAGS = " ".join(
    [
        "digits --epochs 2 --batch-size 16 --train-images 512 --warmup-fraction 0.5 --epsilon-ramp 1",
        "--calibration-images 64 --evaluation-subnets 0 --random-subnets 1",
    ]
).split()


def test_a_terminal_shows_steps_time_left_speed_epsilon_and_losses(fork_server: ForkServer, tmp_path: Path):
    """All that one needs to know before going home."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        # Linux answers EIO when the other end of a terminal is closed.
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 4096):
                shown.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    flags = [*FLAGS, "--out", str(tmp_path / "run")]
    process = fork_server.start(flags, Path(os.ttyname(theirs)), env={"COLUMNS": "200", "LINES": "24"})
    code = fork_server.wait(process)
    os.close(theirs)
    reader.join(20)
    os.close(ours)
    states = [state for state in shown.decode().split("\r") if state.startswith("training:")]
    assert code == 0, shown.decode()
    steps = [int(match[1]) for state in states if (match := re.search(r" (\d+)/64 \[\d\d:\d\d<", state))]
    assert steps == sorted(steps)
    assert steps[-1] > 32
    losses = r"\d+ images/s, ε {}, largest \d\.\d{{3}}{}"
    assert any(re.search(losses.format("0", "\\]"), state) for state in states)
    together = losses.format(r"(0\.\d+|1)", r" smallest \d\.\d{3} random \d\.\d{3}\]")
    assert any(re.search(together, state) for state in states)


def test_a_log_file_holds_a_line_an_epoch_and_no_bar(fork_server: ForkServer, tmp_path: Path):
    """Nobody can read a file full of carriage returns."""
    log = tmp_path / "log"
    assert fork_server.wait(fork_server.start([*FLAGS, "--out", str(tmp_path / "run")], log)) == 0
    text = log.read_text()
    assert "\r" not in text
    assert re.findall(r"^epoch +(\d)/2 ", text, re.MULTILINE) == ["1", "2"]
