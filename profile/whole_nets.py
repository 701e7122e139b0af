"""Read times of whole subnets from a CSV file: one row a subnet, its choices and its milliseconds.

The choices stand in the columns that once-for-all's users write: ``d``, ``ks``, ``e`` (and ``w``), as one digit a
position or as numbers parted by spaces, and ``r`` for the resolution; or as JSON in one column ``arch``. Entries of
blocks that the depth leaves out are ignored. Relies on numpy and on no torch.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deps.ground.errors import ArchError, FileError, LatencyTableError
from deps.supernet.arch import ArchSpec
from deps.supernet.sampling import Genes, encode
from deps.supernet.space import SearchSpace

CHOICES = ("ks", "e", "d", "w")
MAX_SHOWN = 5
"""So many bad rows are told one by one; of the others only the number."""


@dataclass(frozen=True, slots=True)
class WholeNets:
    """Subnets and the time that each took as a whole."""

    genes: Genes
    """Shape (nets, axes)."""

    measured_ms: NDArray[np.float64]
    """Shape (nets,)."""

    file: str
    column: str
    """Which column of the file the times come from."""


def read_whole_nets(path: Path, space: SearchSpace, *, column: str | None = None) -> WholeNets:
    """Return the subnets and times of a CSV file.

    Args:
        path: the file.
        space: the search space that the subnets are of.
        column: the column of milliseconds; may be left out where only one column's name ends in ``ms``.

    Raises:
        FileError: the file is missing or no CSV with a header.
        LatencyTableError: a column is missing or ambiguous, or rows are not of the space; the message names them.
    """
    header, rows = read_rows(path)
    column = _time_column(path, header, column)
    if "arch" not in header and (missing := [name for name in ("ks", "e", "d", "r") if name not in header]):
        raise LatencyTableError(
            f"{path} has no column {', '.join(missing)} (columns: {', '.join(header)}); expected d, ks, e and r, "
            "or one column arch with JSON"
        )
    archs, times, bad = [], [], []
    for line, row in enumerate(rows, start=2):
        try:
            arch = _arch(space, row)
            times.append(_positive(row[column], column))
            archs.append(arch)
        except (ArchError, ValueError) as error:
            bad.append(f"line {line}: {error}")
    if bad or not archs:
        shown = "; ".join(bad[:MAX_SHOWN]) if bad else "it has no rows"
        more = f"; and {len(bad) - MAX_SHOWN} more" if len(bad) > MAX_SHOWN else ""
        raise LatencyTableError(
            f"{len(bad)} of {len(rows)} rows of {path} are not subnets of {space.name} with a time: {shown}{more}; "
            "mend them, or name the right --space"
        )
    return WholeNets(encode(space, archs), np.array(times), path.name, column)


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the header and the rows of a CSV file, every cell without the spaces around it.

    Raises:
        FileError: the file is missing, not text, or a row has more or fewer cells than the header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read as text: {error}") from error
    try:
        lines = [[cell.strip() for cell in cells] for cells in csv.reader(text.splitlines()) if cells]
    except csv.Error as error:
        raise FileError(f"{path} is no CSV file: {error}") from error
    if not lines:
        raise FileError(f"{path} is empty; expected a CSV file whose first line names the columns")
    header = lines[0]
    if len(set(header)) != len(header):
        raise FileError(f"{path} names a column twice: {', '.join(header)}; expected distinct names")
    for line, cells in enumerate(lines[1:], start=2):
        if len(cells) != len(header):
            raise FileError(f"{path} line {line} has {len(cells)} cells; expected {len(header)}, as its first line has")
    return header, [dict(zip(header, cells, strict=True)) for cells in lines[1:]]


def _time_column(path: Path, header: Sequence[str], column: str | None) -> str:
    candidates = [name for name in header if name.endswith("ms")]
    if column is None and len(candidates) == 1:
        return candidates[0]
    if column is None:
        raise LatencyTableError(
            f"{path} has {len(candidates)} columns that end in ms ({', '.join(candidates) or ', '.join(header)}); "
            "name the one with the times with --column"
        )
    if column not in header:
        raise LatencyTableError(f"{path} has no column {column!r}; its columns: {', '.join(header)}")
    return column


def _arch(space: SearchSpace, row: Mapping[str, str]) -> ArchSpec:
    """Return the architecture of one row.

    Raises:
        ArchError: it is not of the space.
        ValueError: a cell is no number.
    """
    if "arch" in row:
        return ArchSpec.parse(space, row["arch"])
    lists = {name: _numbers(row[name]) for name in CHOICES if row.get(name)}
    whole = {name: [int(value) for value in values] for name, values in lists.items() if name != "e"}
    return ArchSpec.from_ofa(
        space, ks=whole.get("ks"), e=lists.get("e"), d=whole.get("d"), w=whole.get("w"), resolution=int(row["r"])
    )


def _numbers(text: str) -> list[float]:
    """Return the numbers of a cell: ``3357`` is 3, 3, 5, 7, and so is ``3 3 5 7``."""
    parts = list(text) if text.isdecimal() else text.replace(";", " ").strip("[]").split()
    return [float(part) if "." in part else int(part) for part in parts]


def _positive(text: str, column: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(f"{column} is {text}; expected a positive number of milliseconds")
    return value
