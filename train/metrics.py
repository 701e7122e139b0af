"""What a run records an epoch: a line of JSON, and the same numbers for TensorBoard where that is installed.

Relies on a checkpoint knowing how long the file was, so that a resumed run neither loses nor repeats a line.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from deps.ground.console import Story, require
from deps.ground.errors import FileError, MissingExtraError
from deps.train.run import METRICS, TENSORBOARD


class MetricsLog:
    """Appends to ``metrics.jsonl`` and to TensorBoard's event files."""

    def __init__(self, folder: Path, story: Story, *, length: int, step: int) -> None:
        """Open the log of ``folder``, cut to the ``length`` in bytes that it had after ``step`` steps.

        Args:
            folder: of the run.
            story: told where TensorBoard is not installed.
            length: of the file in bytes.
            step: steps done.
        """
        self.path, self.board = folder / METRICS, None
        try:
            # Imported here: it takes a second, and reading a run does not need it.
            writer = require("torch.utils.tensorboard.writer", "tensorboard")
        except MissingExtraError as error:
            story.say(f"curves stand in {self.path} alone, not in TensorBoard: {error}")
            writer = None
        try:
            self.file = self.path.open("ab")
            self.file.truncate(length)
            if writer is not None:
                self.board = writer.SummaryWriter(str(folder / TENSORBOARD), purge_step=step)
        except OSError as error:
            raise FileError(f"cannot write {self.path}: {(error.strerror or str(error)).lower()}") from error

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()

    def append(self, step: int, record: dict[str, Any]) -> None:
        """Write one record; numbers also go to TensorBoard.

        Raises:
            FileError: the disk is full.
        """
        try:
            self.file.write(json.dumps(record, allow_nan=True).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise FileError(
                f"cannot write {self.path}: {error.strerror or error}; mend that and continue with --resume"
            ) from error
        if self.board is None:
            return
        for name, value in record.items():
            if isinstance(value, float) and name != "seconds":
                self.board.add_scalar(name, value, step)
        self.board.flush()

    @property
    def length(self) -> int:
        """Bytes in the file."""
        return self.path.stat().st_size


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run, oldest first.

    Raises:
        FileError: the file is missing or damaged.
    """
    path = folder / METRICS
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist") from error
    except json.JSONDecodeError as error:
        raise FileError(f"{path} is damaged: {error}") from error
