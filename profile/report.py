"""What ``deps-profile`` answers: costs of architectures, and a latency table with its error, as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deps.ground.console import text_table
from deps.ground.errors import DepsError
from deps.ground.units import format_bytes, format_count
from deps.profile.flops import Cost, count, fvcore_flops
from deps.profile.kit import Kit
from deps.profile.latency import LatencyTable
from deps.supernet.arch import ArchSpec
from deps.supernet.space import SearchSpace


@dataclass(frozen=True, slots=True)
class CountedArch:
    """One architecture and what it costs."""

    name: str
    arch: ArchSpec
    cost: Cost
    fvcore_flops: int | None
    """What fvcore counts; None where it was not asked."""


@dataclass(frozen=True, slots=True)
class FlopsReport:
    """The costs of some architectures of one space."""

    space: SearchSpace
    archs: tuple[CountedArch, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        rows = []
        for counted in self.archs:
            row: dict[str, Any] = {"name": counted.name, "arch": counted.arch.to_dict(), **counted.cost.to_dict()}
            if counted.fvcore_flops is not None:
                row["fvcore_flops"] = counted.fvcore_flops
            rows.append(row)
        return {"space": self.space.name, "archs": rows}

    def to_text(self) -> str:
        """Return a table for a person, with the exact multiply-adds beside the rounded ones."""
        is_verified = any(counted.fvcore_flops is not None for counted in self.archs)
        header = ["subnet", "px", "FLOPs", "multiply-adds", "params", "activations", "weights"]
        rows = []
        for counted in self.archs:
            cost = counted.cost
            row = [
                counted.name,
                str(counted.arch.resolution),
                format_count(cost.flops),
                f"{cost.flops:,}",
                format_count(cost.params),
                format_bytes(cost.activation_bytes),
                format_bytes(cost.weight_bytes),
            ]
            rows.append([*row, f"{counted.fvcore_flops:,}"] if is_verified else row)
        title = f"{self.space.name}, one image, float32; activations: the most that live at once"
        archs = [f"{counted.name}: {counted.arch.to_text()}" for counted in self.archs]
        return "\n".join([title, "", text_table([*header, "fvcore"] if is_verified else header, rows), "", *archs])


def counted(space: SearchSpace, named: Sequence[tuple[str, ArchSpec]], *, verify: bool) -> FlopsReport:
    """Count architectures, and have fvcore count them too where asked.

    Raises:
        DepsError: fvcore counts something else, which is an error of ours.
        MissingExtraError: fvcore is asked for and not installed.
    """
    rows = []
    for name, arch in named:
        cost = count(space, arch)
        others = fvcore_flops(space, arch) if verify else None
        if others is not None and others != cost.flops:
            raise DepsError(
                f"{name} of {space.name} has {cost.flops:,} multiply-adds by its plan and {others:,} by fvcore; "
                f"please report this with the architecture {arch.to_dict()}"
            )
        rows.append(CountedArch(name, arch, cost, others))
    return FlopsReport(space, tuple(rows))


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """A latency table and where it lies."""

    table: LatencyTable
    path: Path
    is_new: bool

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints: conditions and error; the entries are in the file."""
        table = self.table.to_dict()
        shown = ("target", "backend", "precision", "threads", "batch", "space", "error", "sessions", "device")
        return {
            "path": str(self.path),
            "is_new": self.is_new,
            "num_entries": len(self.table.entries),
            "beats_flops_line": self.table.beats_flops_line,
            **{name: table[name] for name in shown},
        }

    def to_text(self) -> str:
        """Return the table's conditions and error, and the file."""
        return f"{self.table.to_text()}\n\n{self.path}"


@dataclass(frozen=True, slots=True)
class KitReport:
    """A measuring kit that was written."""

    kit: Kit

    def _size_bytes(self) -> int:
        return sum((self.kit.folder / file).stat().st_size for file in self.kit.manifest.sha256)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        manifest = self.kit.manifest
        return {
            "path": str(self.kit.folder),
            "space": self.kit.space.name,
            "target": manifest.target,
            "precisions": list(manifest.precisions),
            "resolutions": list(self.kit.resolutions),
            "num_nets": len(manifest.nets),
            "size_bytes": self._size_bytes(),
        }

    def to_text(self) -> str:
        """Return what is in the kit, and what to do with it."""
        manifest = self.kit.manifest
        roles = Counter(net.role for net in manifest.nets)
        counts = ", ".join(f"{number} {role.replace('_', ' ')}" for role, number in roles.items())
        rows = [
            ("space", f"{self.kit.space.name} at {', '.join(map(str, self.kit.resolutions))} px"),
            ("nets", f"{counts}; each in {', '.join(manifest.precisions)}"),
            ("size", format_bytes(self._size_bytes())),
        ]
        lines = [f"{name:<14} {value}" for name, value in rows]
        there = f"copy {self.kit.folder} to the device ({manifest.target}) and run there:"
        return "\n".join([*lines, "", there, f"  deps-profile measure {self.kit.folder.name} --out table.json"])
