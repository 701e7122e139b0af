"""Where the latency tables of targets are found: in a run folder, in the user's folder, and among those that ship.

Relies on tables saying themselves what they are; files that are no tables are passed over with a word.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deps.ground.console import text_table
from deps.ground.errors import DepsError
from deps.profile.latency import LatencyTable, find_table
from deps.supernet.arch import ArchSpec
from deps.supernet.space import SearchSpace

OWN = Path("tables")
"""The user's folder, beside ``runs/``."""

FOLDER_VARIABLE = "DEPS_TABLES"
"""Names another folder of the user's."""

SHIPPED = Path(__file__).resolve().parent.parent / "benchmarks" / "tables"
"""Measured tables of a checkout; an installed wheel has none."""


@dataclass(frozen=True, slots=True)
class Found:
    """A table, or a file that should have been one."""

    path: Path
    table: LatencyTable | None
    reason: str
    """Why it is none; empty for a table."""


def table_folders() -> tuple[Path, ...]:
    """Return the folders of tables that belong to no run, the user's own first."""
    named = os.environ.get(FOLDER_VARIABLE)
    return (*([Path(named)] if named else []), OWN, SHIPPED)


def find_tables(run: Path | None = None) -> list[Found]:
    """Return every table that can be found, those of ``run`` first."""
    files: list[Path] = sorted((run / "latency").glob("*.json")) if run is not None else []
    for folder in table_folders():
        files += sorted(folder.glob("*.json"))
    return [_read(path) for path in dict.fromkeys(files)]


def choose_table(run: Path, target: str, space: SearchSpace) -> Path:
    """Return the table of a target for a space: the run's own, else the user's, else one that ships.

    A table of ``cpu`` says nothing of another processor, so one from outside the run counts only on the machine it
    names.

    Returns:
        Where the run's own would lie, if there is none at all.
    """
    own = find_table(run, target)
    if own.exists():
        return own
    for found in find_tables():
        if found.table is not None and found.table.target == target and _serves(found.table, space):
            return found.path
    return own


def _serves(table: LatencyTable, space: SearchSpace) -> bool:
    if table.target == "cpu":
        from deps.profile.fingerprint import processor

        if any(table.device.get(name) != value for name, value in processor().items()):
            return False
    known = [resolution for resolution in space.resolutions if resolution in table.resolutions]
    try:
        return bool(known) and table.predict(space, ArchSpec.smallest(space, resolution=known[0])) > 0
    except DepsError:
        return False


def _read(path: Path) -> Found:
    try:
        return Found(path, LatencyTable.load(path), "")
    except DepsError as error:
        return Found(path, None, str(error))


@dataclass(frozen=True, slots=True)
class TablesReport:
    """The tables that can be found."""

    found: tuple[Found, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {"tables": [_row(one) for one in self.found]}

    def to_text(self) -> str:
        """Return one line a table, then the files that are none."""
        header = ("table", "target", "device", "runs on", "space", "px", "error", "FLOPs line")
        rows = [
            (
                str(one.path),
                one.table.target,
                _device(one.table),
                f"{one.table.backend} {one.table.precision}",
                one.table.space,
                ",".join(map(str, one.table.resolutions)),
                "unknown" if one.table.error is None else f"{one.table.error.mape:.1%}",
                "" if one.table.error is None else f"{one.table.error.flops_line_mape:.1%}",
            )
            for one in self.found
            if one.table is not None
        ]
        complaints = [f"{one.path} is no table: {one.reason}" for one in self.found if one.table is None]
        folders = ", ".join(map(str, table_folders()))
        if not rows and not complaints:
            return f"no tables in {folders}; measure one with deps-profile latency --target cpu"
        return "\n".join([text_table(header, rows), *complaints])


def _device(table: LatencyTable) -> str:
    for name in ("gpu_name", "board", "cpu"):
        if name in table.device:
            return str(table.device[name])
    return "unknown"


def _row(found: Found) -> dict[str, Any]:
    if found.table is None:
        return {"path": str(found.path), "is_table": False, "reason": found.reason}
    plain = found.table.to_dict()
    shown = ("target", "backend", "precision", "threads", "batch", "space", "error", "device")
    described = {name: plain[name] for name in shown}
    return {"path": str(found.path), "is_table": True, "resolutions": list(found.table.resolutions), **described}
