"""Pictures of a run or of several: drawn without a screen, written as PNG and SVG.

Relies on matplotlib, which is imported when a picture is wanted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deps.ground.console import require
from deps.ground.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, its sides in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "compile")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name.png`` and ``name.svg``, each whole or not at all; return their paths.

    Raises:
        FileError: the disk is full, or the place cannot be written.
    """
    paths = []
    for kind in ("png", "svg"):
        paths.append(folder / f"{name}.{kind}")
        with whole_file(paths[-1]) as temporary:
            figure.savefig(temporary, format=kind)
    return paths
