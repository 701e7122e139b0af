"""What was measured so far, one line a group of nets, so that a command that was killed goes on where it was.

Relies on each line being flushed to the disk before the next group begins; a line that was cut short is forgotten.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from deps.ground.errors import FileError


class Journal:
    """The lines of one file; the first says what is measured, and under which conditions."""

    def __init__(self, path: Path | None, header: dict[str, Any]) -> None:
        """Open a journal, keeping what it holds if it was begun under the same header.

        Args:
            path: its file; None remembers nothing.
            header: plain JSON data.

        Raises:
            FileError: the file cannot be read or written.
        """
        self.path = path
        self.records: list[dict[str, Any]] = []
        self.was_begun_otherwise = False
        found = _read(path) if path is not None else []
        if found and found[0] == json.loads(json.dumps(header)):
            self.records = found[1:]
        elif path is not None:
            self.was_begun_otherwise = bool(found)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(header, mode="w")

    @property
    def processes(self) -> int:
        """How many processes have written here."""
        return len({record["process"] for record in self.records})

    def append(self, record: dict[str, Any]) -> None:
        """Add one line, and have it on the disk before returning."""
        self.records.append(record)
        if self.path is not None:
            self._write(record, mode="a")

    def remove(self) -> None:
        """Forget everything: the result is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self, record: dict[str, Any], *, mode: str) -> None:
        assert self.path is not None
        try:
            # A line that a kill cut short must not swallow the next one.
            is_torn = mode == "a" and self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n")
            with self.path.open(mode, encoding="utf-8") as stream:
                stream.write(("\n" if is_torn else "") + json.dumps(record, allow_nan=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise FileError(f"cannot write {self.path}: {reason}; choose another place with --out") from error


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read: {error}; remove it to begin again") from error
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
