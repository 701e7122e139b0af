"""What is found in the pictures of a folder before training: that each can be opened, and their statistics.

Relies on the findings being kept beside the run, keyed by the files' names, sizes and times, so that a resumed run
uses the same numbers and does not look again.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, UnidentifiedImageError

from deps.ground.console import Story
from deps.ground.errors import DataError, FileError
from deps.ground.files import read_json, write_json
from deps.train.folder import FolderSplit

SCHEMA_VERSION = 1
STATISTICS_IMAGES = 2000
THREADS = 8


class Findings(NamedTuple):
    """What was found."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def examined(splits: list[FolderSplit], *, memory: Path | None, story: Story, needs_statistics: bool) -> Findings:
    """Return statistics of the first split, after the header of every picture was read.

    Args:
        splits: training pictures first.
        memory: where findings are kept; None keeps them nowhere.
        story: shows progress.
        needs_statistics: whether mean and deviation are asked for; otherwise they are empty.

    Raises:
        DataError: a picture cannot be opened; the message names the file, and says how many more there are.
    """
    key = "-".join(split.fingerprint() for split in splits)
    if (kept := _remembered(memory, key)) is not None and (kept.mean or not needs_statistics):
        return kept
    _check_headers([path for split in splits for path in split.paths], story)
    findings = _statistics(splits[0], story) if needs_statistics else Findings((), ())
    if memory is not None:
        record = {"schema_version": SCHEMA_VERSION, "pictures": key, "mean": findings.mean, "std": findings.std}
        try:
            write_json(memory, record)
        except FileError as error:
            story.detail(f"{error}; the pictures will be looked at again next time")
    return findings


def _remembered(memory: Path | None, key: str) -> Findings | None:
    if memory is None or not memory.exists():
        return None
    try:
        found: dict[str, Any] = read_json(memory, schema_version=SCHEMA_VERSION)
    except FileError:
        return None  # Damaged: it is made again.
    if found.get("pictures") != key:
        return None
    return Findings(tuple(found["mean"]), tuple(found["std"]))


def _check_headers(paths: list[Path], story: Story) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        problems = story.track(pool.map(_problem, paths, chunksize=64), "checking", total=len(paths), unit="picture")
        broken = [(path, problem) for path, problem in zip(paths, problems, strict=True) if problem]
    if broken:
        path, problem = broken[0]
        more = f", and {len(broken) - 1} more pictures like it" if len(broken) > 1 else ""
        raise DataError(f"{path} cannot be read as a picture ({problem}){more}; mend or remove what is broken")


def _problem(path: Path) -> str | None:
    try:
        with Image.open(path):
            return None
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        return (isinstance(error, OSError) and error.strerror) or str(error).replace(f" {str(path)!r}", "")


def _statistics(split: FolderSplit, story: Story) -> Findings:
    """Return mean and deviation over the pixels of some training pictures, as evaluation crops them."""
    some = split.first(STATISTICS_IMAGES)
    total, squares, pixels = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0

    def parts() -> Iterator[torch.Tensor]:
        for x_NCHW, _ in some.batches(50):
            yield x_NCHW

    for x_NCHW in story.track(parts(), "statistics", total=-(-len(some) // 50), unit="batch"):
        # The split is normalised with mean 0 and deviation 1 so far: pixels scaled to 0..1.
        values = x_NCHW.double()
        total += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
        pixels += values.numel() // 3
    mean = total / pixels
    # Pictures of one colour have no deviation, and must not be divided by 0.
    std = torch.sqrt(torch.clamp(squares / pixels - mean.square(), min=1e-6))
    return Findings(*(tuple(round(v, 4) for v in values.tolist()) for values in (mean, std)))
