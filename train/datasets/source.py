"""Where images come from and what is asked of them: one value that every data set's function takes.

Relies on nothing of a recipe, so that extraction can ask for pictures that no recipe names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deps.ground.console import Story


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a data set is made from."""

    root: Path
    """Folder of the images."""

    validation_images: int = 0
    """Training images held out for choices, where the data set brings none; 0 means a tenth."""

    classes: Path | None = None
    """File that lists the folders of the classes to use, one a line; None means all of them."""

    mean: tuple[float, ...] = ()
    """Mean of each colour channel; empty means what is published, or is computed."""

    std: tuple[float, ...] = ()
    """Standard deviation of each colour channel; empty as for the mean."""

    download: bool = False
    """Whether missing files are fetched from where their authors keep them."""

    workers: int = 0
    """Processes that decode pictures."""

    memory: Path | None = None
    """File that remembers what was found in the pictures: statistics, and that they can be opened."""

    story: Story = field(default_factory=lambda: Story(quiet=True))
    """Tells of long work."""
