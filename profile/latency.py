"""The latency table: measured times of pieces on one device, with the conditions and with its own error.

A prediction is the sum over the pieces of a subnet, plus the overhead of a run. Relies on ``additive.py`` for whole
populations and on no torch, so a device can read, write and check a table.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deps.ground.errors import LatencyTableError
from deps.ground.files import read_json, write_json
from deps.ground.units import format_ms
from deps.profile.additive import CostTable, LinearForm, tabulate
from deps.profile.energy import Energy
from deps.profile.levels import Statistic
from deps.serve.records import plain_from_record, record_from_plain
from deps.supernet.arch import ArchSpec
from deps.supernet.pieces import Piece
from deps.supernet.plan import plan
from deps.supernet.sampling import Genes, columns
from deps.supernet.space import SearchSpace

SCHEMA_VERSION = 1

Clock: TypeAlias = Literal["wall", "cpu", "elsewhere"]
"""What times were read from: the wall clock of undisturbed runs, one thread's processor time where that repeats better,
or a clock elsewhere of which the file with the times says nothing."""

Origin: TypeAlias = Literal["measured", "imported", "fitted"]
"""Whether pieces were timed by deps, timed by others and read from their file, or inferred from times of whole nets."""

ERROR_UNKNOWN = "error unknown: no held-out measurements"
"""What stands where a prediction's error would, when nobody compared the table with whole nets."""

REMEASURE = "measure it again with deps-profile latency --overwrite, or take an older copy"


@dataclass(frozen=True, slots=True)
class Entry:
    """The time of one piece, as it runs inside a whole net."""

    median_ms: float
    """Where deps measured: the median over the nets that hold the piece, each telling the mean of its quicker runs."""

    spread_ms: float
    """Half the distance between the quartiles of its runs."""

    runs: int
    """How many runs these were."""


@dataclass(frozen=True, slots=True)
class Session:
    """How the nets of one resolution were measured, and the fit that turned node times into entries."""

    resolution: int
    overhead_ms: float
    """What a run takes beside its pieces."""

    scale: float
    """Time of a piece by time of its nodes under the profiler."""

    per_node_ms: float
    """What each node takes more (or, where the profiler's clock adds to a node, less) than its scaled time."""

    clock: Clock

    clean_share: float | None
    """Share of the bursts that nothing disturbed; None where times come from elsewhere."""

    unsteadiness: float | None
    """By which share times of even and odd rounds differ; no prediction can be better than this. None as above."""

    rounds: int
    """How many stretches of each net were timed, in the median; 0 where times come from elsewhere."""

    source: Literal["nodes", "blocks"] = "nodes"
    """Whether pieces were timed inside whole nets, or alone."""

    seconds: float = 0.0
    """Time of the timed runs of the nets that make the table."""

    statistic: Statistic = "mean"
    """What of its runs told the times of whole nets apart."""


@dataclass(frozen=True, slots=True)
class Check:
    """A held-out net: predicted and measured."""

    resolution: int
    flops: int
    predicted_ms: float
    measured_ms: float


@dataclass(frozen=True, slots=True)
class TableError:
    """How far predictions are from measurements on nets that the table never saw; shares, so 0.01 is 1 %."""

    mape: float
    """Mean absolute error, relative to the measurement."""

    worst: float
    bias: float
    """Mean signed error; positive when predictions are too high."""

    spearman: float
    """Rank correlation; 0 where there is nothing to rank."""

    flops_line_mape: float
    """The same error of a line through the multiply-adds of the anchors: what a table must beat."""

    nets: int
    """How many held-out nets."""

    repeatability: float = 0.0
    """By which share the measured time of a held-out net is itself off, on average: no table can err less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyTable:
    """Measured times on one target, with their conditions and their error."""

    target: str
    backend: str
    precision: str
    threads: int
    batch: int
    space: str
    """Name of the search space that was measured."""

    entries: dict[str, Entry]
    """The time of each piece, by its key."""

    sessions: tuple[Session, ...]
    """One a resolution."""

    error: TableError | None
    """None where nobody compared the table with whole nets: an imported one."""

    held_out: tuple[Check, ...]
    device: dict[str, Any]
    """Fingerprint of the device: what two tables must share to be comparable."""

    provenance: dict[str, Any]
    origin: Origin = "measured"
    energy: Energy | None = None
    """What some of the measured nets took in energy; None where nobody tried to meter it."""

    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not self.sessions:
            raise LatencyTableError("sessions is empty; expected one a resolution")
        for key, entry in self.entries.items():
            if not entry.median_ms >= 0:
                raise LatencyTableError(f"entries[{key!r}].median_ms is {entry.median_ms}; expected at least 0")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The resolutions that were measured."""
        return tuple(session.resolution for session in self.sessions)

    @property
    def beats_flops_line(self) -> bool | None:
        """Whether the table knows more than a line through the multiply-adds; None where its error is unknown.

        A table that does not is not worth having.
        """
        return None if self.error is None else self.error.mape < self.error.flops_line_mape

    def predict(self, space: SearchSpace, arch: ArchSpec) -> float:
        """Return the milliseconds that one run of the subnet takes.

        Raises:
            ArchError: ``arch`` is not of this space.
            LatencyTableError: its resolution or one of its pieces was not measured.
        """
        total = self._overhead_ms(arch.resolution)
        for piece in plan(space, arch).pieces():
            if piece.key not in self.entries:
                raise LatencyTableError(
                    f"the table of {self.target}, measured for {self.space}, has no entry for {piece.key!r} of "
                    f"{space.name}; measure one for this space with deps-profile latency --space or --supernet"
                )
            total += self.entries[piece.key].median_ms
        return total

    def _overhead_ms(self, resolution: int) -> float:
        overheads = {session.resolution: session.overhead_ms for session in self.sessions}
        if resolution not in overheads:
            measured = [str(known) for known in sorted(overheads)]
            raise LatencyTableError(
                f"the table of {self.target} holds no resolution {resolution} (measured: {', '.join(measured)}); "
                f"measure it with deps-profile latency --resolution {' '.join(measured)} {resolution}"
            )
        return overheads[resolution]

    def predict_many(self, space: SearchSpace, genes: Genes) -> NDArray[np.float64]:
        """Return the milliseconds of each row; infinite where the table has no resolution or piece for it.

        Infinity meets no budget, so that a search never chooses what was not measured.
        """
        overheads = {session.resolution: session.overhead_ms for session in self.sessions}
        by_gene = np.array([overheads.get(resolution, np.inf) for resolution in space.resolutions])
        pieces: NDArray[np.float64] = self.cost_table(space)(genes)
        overhead: NDArray[np.float64] = by_gene[genes[:, columns(space).resolution]]
        return pieces + overhead

    def cost_table(self, space: SearchSpace) -> CostTable:
        """Return the times of all pieces of a space, infinite where not measured; without the overhead of a run."""
        return _cost_table(_Entries(self.entries), space)

    def linear_form(self, space: SearchSpace, resolution: int, widths: Sequence[int] = ()) -> LinearForm:
        """Return the prediction at one resolution as coefficients of choices, the overhead of a run included.

        Raises:
            ArchError: a width is not in the space.
            LatencyTableError: the resolution was not measured.
        """
        overhead = self._overhead_ms(resolution)
        form = self.cost_table(space).linear_form(resolution, widths)
        return replace(form, constant=form.constant + overhead)

    def error_ms(self, predicted_ms: float) -> float | None:
        """Return by how much a prediction is off on average, as in ``4.9 ms ± 0.1``; None where that is unknown."""
        return None if self.error is None else self.error.mape * predicted_ms

    def conditions(self) -> dict[str, Any]:
        """Return what another table must share for its numbers to mean the same."""
        names = ("target", "backend", "precision", "threads", "batch", "space", "device")
        return {name: getattr(self, name) for name in names}

    def save(self, path: Path | str) -> None:
        """Write the table as JSON, whole or not at all.

        Raises:
            FileError: the disk is full, or the place cannot be written.
        """
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path | str) -> LatencyTable:
        """Read a table.

        Raises:
            FileError: the file is missing, not JSON, or of another schema version.
            LatencyTableError: a field is missing, unknown or out of range; the message names it.
        """
        plain = read_json(path, schema_version=SCHEMA_VERSION)
        return record_from_plain(cls, plain, error=LatencyTableError, source=str(path), remedy=REMEASURE)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        plain: dict[str, Any] = plain_from_record(self)
        return {"schema_version": plain.pop("schema_version"), **plain}

    def to_text(self) -> str:
        """Return what a person wants to know of the table: conditions, and how far to believe it."""
        clocks = sorted({session.clock for session in self.sessions})
        clock = {
            "wall": "wall clock of undisturbed runs",
            "cpu": "thread processor time, which repeated better than the wall clock of undisturbed runs",
            "elsewhere": "unknown, the times come from elsewhere",
        }
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        rows = [
            ("target", f"{self.target} ({self.device.get('cpu', self.device.get('name', 'unknown'))})"),
            ("origin", self._origin_text()),
            ("backend", f"{self.backend}, {self.precision}, {threads}, batch {self.batch}"),
            ("space", f"{self.space} at {', '.join(map(str, self.resolutions))} px, {len(self.entries)} entries"),
            ("clock", " and ".join(clock[name] for name in clocks)),
            *self._error_rows(),
            *([] if self.energy is None else [("energy", self.energy.to_text())]),
        ]
        return "\n".join(f"{name:<14} {value}" for name, value in rows)

    def _origin_text(self) -> str:
        return {
            "measured": "pieces timed by deps",
            "imported": f"pieces timed by others, imported from {self.provenance.get('file', 'a file')}",
            "fitted": f"fitted to times of whole nets in {self.provenance.get('file', 'a file')}",
        }[self.origin]

    def _error_rows(self) -> list[tuple[str, str]]:
        error = self.error
        if error is None:
            return [("error", ERROR_UNKNOWN.removeprefix("error "))]
        measured = [check.measured_ms for check in self.held_out]
        held_out = (
            f"{error.nets}, {format_ms(min(measured))} to {format_ms(max(measured))}" if measured else "none kept"
        )
        if error.repeatability:
            held_out += f"; their times repeat within {error.repeatability:.1%}"
        return [
            ("held-out nets", held_out),
            ("error", f"{error.mape:.1%} on average, {error.worst:.1%} at worst, bias {error.bias:+.1%}"),
            ("ranks", f"Spearman {error.spearman:.3f}"),
            ("FLOPs line", f"{error.flops_line_mape:.1%} on average; {self._verdict()}"),
        ]

    def _verdict(self) -> str:
        return "the table beats it" if self.beats_flops_line else "THE TABLE DOES NOT BEAT IT"


def table_error(
    measured_ms: Sequence[float],
    predicted_ms: Sequence[float],
    flops_line_ms: Sequence[float],
    repeatability: float = 0.0,
) -> TableError:
    """Return how far two predictions of the same held-out nets are from the measurements."""
    measured, predicted, line = (
        np.asarray(values, np.float64) for values in (measured_ms, predicted_ms, flops_line_ms)
    )
    relative = predicted / measured - 1
    return TableError(
        mape=float(np.abs(relative).mean()),
        worst=float(np.abs(relative).max()),
        bias=float(relative.mean()),
        spearman=spearman(measured, predicted),
        flops_line_mape=float(np.abs(line / measured - 1).mean()),
        nets=len(measured),
        repeatability=repeatability,
    )


def spearman(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Return the rank correlation of two series, ties sharing their mean rank; 0 where one of them is constant."""

    def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return np.asarray((np.cumsum(counts) - (counts + 1) / 2)[inverse])

    x, y = ranks(left), ranks(right)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else 0.0


class _Entries:
    """Entries by identity, so that the tables made of them can be remembered."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries

    def __hash__(self) -> int:
        return id(self.entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Entries) and other.entries is self.entries


@functools.lru_cache(maxsize=32)
def _cost_table(held: _Entries, space: SearchSpace) -> CostTable:
    def cost(piece: Piece) -> float:
        entry = held.entries.get(piece.key)
        return np.inf if entry is None else entry.median_ms

    return tabulate(space, cost, dtype=np.float64)


def find_table(run: Path | str, target: str) -> Path:
    """Return where the table of a target lies in a run folder; it need not exist.

    ``deps-profile latency --supernet RUN --target T`` writes there and ``deps-extract`` reads there.
    """
    return Path(run) / "latency" / f"{target}.json"
