"""What a run records an epoch: a line of JSON, and the same numbers for TensorBoard.

Relies on a checkpoint knowing how long the file was, so that a resumed run neither loses nor repeats a line.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from deps.ground.errors import FileError
from deps.train.run import METRICS, TENSORBOARD


class MetricsLog:
    """Appends to ``metrics.jsonl`` and to TensorBoard's event files."""

    def __init__(self, folder: Path, *, length: int, step: int) -> None:
        """Open the log of ``folder``, cut to the ``length`` in bytes that it had after ``step`` steps."""
        # Imported here: it takes a second, and reading a run does not need it.
        from torch.utils.tensorboard.writer import SummaryWriter

        self.path = folder / METRICS
        try:
            self.file = self.path.open("ab")
            self.file.truncate(length)
            self.board = SummaryWriter(str(folder / TENSORBOARD), purge_step=step)
        except OSError as error:
            raise FileError(f"cannot write {self.path}: {(error.strerror or str(error)).lower()}") from error

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
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
