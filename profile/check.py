"""Ask a table again, on its device: measure nets that it never saw and compare with what it foretells.

Relies on ``session.py`` to measure; the nets are those of a kit, drawn with another seed than the table's where the
kit is written for the occasion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deps.ground.console import Story
from deps.ground.errors import LatencyTableError
from deps.ground.files import write_text
from deps.ground.provenance import now
from deps.profile.backends.base import Backend
from deps.profile.kit import Kit, KitManifest
from deps.profile.latency import LatencyTable, TableError
from deps.profile.measure import MeasureSettings
from deps.profile.plot import scatter_svg, scatter_text
from deps.profile.session import measure_parts
from deps.profile.table import checks_of, error_of


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What came of it."""

    table: LatencyTable
    """The table with its error, and its held-out nets, as they were found now."""

    stated: TableError
    """The error that it stated before."""

    drift: float
    """By which factor everything is slower now than the table says, in the median; 1 is as then."""

    path: Path
    picture: Path | None

    @property
    def mape_without_drift(self) -> float:
        """Mean error of the predictions times the drift: what a search, which only compares, suffers from."""
        checks = self.table.held_out
        return float(np.mean([abs(check.predicted_ms * self.drift / check.measured_ms - 1) for check in checks]))

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        plain = self.table.to_dict()
        return {
            "path": str(self.path),
            "picture": None if self.picture is None else str(self.picture),
            "beats_flops_line": self.table.beats_flops_line,
            "drift": self.drift,
            "mape_without_drift": self.mape_without_drift,
            "stated_mape": self.stated.mape,
            "error": plain["error"],
            "held_out": plain["held_out"],
        }

    def to_text(self) -> str:
        """Return the numbers, the drawing, and where the picture is."""
        now_stated = f"{self.stated.mape:.1%} was stated when the table was measured"
        drift = f"{self.drift - 1:+.1%} in the median against the table; without it {self.mape_without_drift:.1%} error"
        lines = [self.table.to_text(), f"{'stated':<14} {now_stated}", f"{'drift':<14} {drift}", ""]
        lines.append(scatter_text(self.table.held_out))
        return "\n".join(lines if self.picture is None else [*lines, "", str(self.picture)])


def check_table(
    table: LatencyTable,
    path: Path,
    kit: Kit,
    backend: Backend,
    settings: MeasureSettings,
    story: Story,
    picture: Path | None = None,
) -> CheckReport:
    """Measure the held-out nets of a kit and judge a table by them.

    Args:
        table: what is judged.
        path: its file, for the report.
        kit: of the table's space, at resolutions that the table has.
        backend: the table's, on the table's device.
        settings: the table's conditions.
        story: where progress is shown.
        picture: where an SVG is written.

    Raises:
        LatencyTableError: this is another device, or the machine is too noisy; the message says what to do.
        FileError: the picture cannot be written.
    """
    require_device(table, path, backend)
    assert table.error is not None
    parts = measure_parts(_judges_only(kit), backend, settings, story)
    checks = tuple(check for part in parts for check in checks_of(kit, part, table.entries, table.sessions))
    error = error_of(kit, parts, checks)
    drift = float(np.exp(np.median([np.log(check.measured_ms / check.predicted_ms) for check in checks])))
    judged = replace(table, error=error, held_out=checks, provenance={**table.provenance, "checked": now()})
    if picture is not None:
        title = f"{table.space} on {table.target}: MAPE {error.mape:.1%}, FLOPs line {error.flops_line_mape:.1%}"
        write_text(picture, scatter_svg(checks, title))
    return CheckReport(judged, table.error, drift, path, picture)


def require_device(table: LatencyTable, path: Path, backend: Backend) -> None:
    """Complain when a table was measured on another device, or under other settings of its clocks.

    Raises:
        LatencyTableError: it was; the message names what differs.
    """
    here = backend.facts()
    differing = [
        f"{name} {table.device.get(name)!r} (here {here.get(name)!r})"
        for name in sorted({*table.device, *here})
        if table.device.get(name) != here.get(name)
    ]
    if differing:
        raise LatencyTableError(
            f"{path} was measured on another device or under other settings: {'; '.join(differing)}; "
            "check it there, or measure a table of this device"
        )


def _judges_only(kit: Kit) -> Kit:
    """Return a kit without the nets that only make a table; the anchors stay, for the FLOPs line."""
    nets = tuple(net for net in kit.manifest.nets if net.role in ("anchor", "held_out", "probe"))
    manifest: KitManifest = replace(kit.manifest, nets=nets)
    return replace(kit, manifest=manifest)
