"""Training state on disk: one safetensors file a checkpoint, written whole, the newest readable one wins.

Relies on all randomness being a function of (seed, step): weights, momentum and the step are the whole state.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deps.ground.console import Story
from deps.ground.errors import FileError, RunError
from deps.supernet.checkpoint import load_tensors, save_tensors

SCHEMA_VERSION = 1
FOLDER = "checkpoints"
KEEP = 2
"""Checkpoints that stay; with one alone a broken disk block would cost the whole training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a training stands, beside its tensors."""

    step: int
    """Steps done."""

    seconds: float
    """Time spent training so far."""

    metrics_bytes: int
    """Length of ``metrics.jsonl`` at this moment; what was written later belongs to steps that will be done again."""

    sums: dict[str, float] = field(default_factory=dict)
    """Sums over the steps of the epoch that is under way."""

    cost: dict[str, Any] = field(default_factory=dict)
    """The account of what was spent so far, see ``Cost``."""

    best: tuple[float, ...] = ()
    """The best watched figure so far, see ``loop``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """All tensors of a training, by name."""

    weights: dict[str, Tensor]
    momentum: dict[str, Tensor]
    teacher: dict[str, Tensor] = field(default_factory=dict)
    """Weights of a finished teacher, for methods that have one."""


PARTS = ("weights", "momentum", "teacher")


def save_checkpoint(folder: Path, state: State, progress: Progress, *, keep: int = KEEP) -> None:
    """Write a checkpoint and remove all but the newest ``keep``.

    Raises:
        FileError: the disk is full, or the place cannot be written; the message names the checkpoint that is left.
    """
    stored = {
        f"{part}/{name}": tensor.detach().cpu().contiguous()
        for part in PARTS
        for name, tensor in getattr(state, part).items()
    }
    metadata = {"schema_version": str(SCHEMA_VERSION), "progress": json.dumps(asdict(progress))}
    try:
        save_tensors(folder / FOLDER / f"step-{progress.step:08d}.safetensors", stored, metadata)
    except FileError as error:
        left = [int(path.stem.removeprefix("step-")) for path in checkpoints(folder)[:1]]
        where = f"the checkpoint of step {left[0]}, which is whole" if left else "the beginning"
        raise FileError(f"{error}; --resume goes on from {where}") from error
    for old in checkpoints(folder)[keep:]:
        old.unlink(missing_ok=True)


def load_newest(folder: Path, story: Story) -> tuple[State, Progress] | None:
    """Return the newest readable checkpoint; None where there is none.

    A damaged checkpoint is said and passed over for the one before it.

    Raises:
        RunError: there are checkpoints, but none can be read.
    """
    paths = checkpoints(folder)
    for path in paths:
        try:
            return read_checkpoint(path)
        except FileError as error:
            story.warn(f"{error}; falling back to the checkpoint before it")
    if paths:
        raise RunError(f"no checkpoint in {folder / FOLDER} can be read; start anew with --overwrite")
    return None


def read_checkpoint(path: Path) -> tuple[State, Progress]:
    """Return the tensors of one checkpoint, and where the training stood.

    Raises:
        FileError: it is damaged.
    """
    progress = _read_progress(path)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, tensor in load_tensors(path).items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    return State(**parts), progress


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run folder, newest first."""
    return sorted((folder / FOLDER).glob("step-*.safetensors"), reverse=True)


def _read_progress(path: Path) -> Progress:
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        if metadata.get("schema_version") != str(SCHEMA_VERSION):
            raise FileError(
                f"{path} has schema_version {metadata.get('schema_version')}; this deps reads {SCHEMA_VERSION}"
            )
        fields: dict[str, Any] = json.loads(metadata["progress"])
        return Progress(**{**fields, "best": tuple(fields.get("best", ()))})
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise FileError(f"{path} is damaged: {error}") from error


def restore(into: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    """Copy stored tensors into live ones of the same names, in place."""
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(stored[name])
