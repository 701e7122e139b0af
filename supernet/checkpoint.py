"""Supernets on disk: ``supernet.safetensors`` for the weights, ``supernet.json`` for the space and the provenance.

Relies on safetensors, so reading weights never executes code; the same holds for the published files it can read.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from deps.ground.errors import CheckpointError, DepsError, FileError
from deps.ground.files import read_json, sha256_of, whole_file, write_json
from deps.ground.provenance import provenance
from deps.supernet.space import SearchSpace

if TYPE_CHECKING:
    from deps.supernet.supernet import Supernet

SCHEMA_VERSION = 1
WEIGHTS, DESCRIPTION = "supernet.safetensors", "supernet.json"


def save(supernet: Supernet, folder: Path) -> None:
    """Write weights and description into ``folder``; the description comes last and vouches for the weights.

    Raises:
        FileError: the disk is full, or the place cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in supernet.tensors.items()}
    save_tensors(folder / WEIGHTS, tensors)
    description = {
        "schema_version": SCHEMA_VERSION,
        "space": supernet.space.to_dict(),
        "weights": {"file": WEIGHTS, "sha256": sha256_of(folder / WEIGHTS)},
        "provenance": {**provenance(), **supernet.provenance},
    }
    write_json(folder / DESCRIPTION, description)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as one safetensors file, whole or not at all.

    Raises:
        FileError: the disk is full, or the place cannot be written.
    """
    with whole_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            # The library wraps the system's error in its own; keep what it says.
            raise FileError(f"cannot write {path}: {error}; nothing was changed there") from error


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Raises:
        FileError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path} is damaged: {error}; write it again, or take an older copy") from error


def load(path: Path, *, space: SearchSpace | None) -> Supernet:
    """Return the supernet in a folder that ``save`` wrote, or in a published once-for-all file.

    The number of classes is the file's; everything else must be as ``space`` says.

    Raises:
        CheckpointError: the weights are not those of ``space``.
        FileError: a file is missing, altered or damaged.
    """
    if not path.exists():
        raise FileError(f"{path} does not exist; expected a folder that holds {DESCRIPTION}, or a published .pth file")
    return _load_folder(path, space) if path.is_dir() else _load_published(path, space)


def _load_folder(path: Path, space: SearchSpace | None) -> Supernet:
    from deps.supernet.supernet import Supernet

    if not (path / DESCRIPTION).exists():
        raise FileError(f"{path} holds no supernet; expected {DESCRIPTION} and {WEIGHTS} in it")
    description = read_json(path / DESCRIPTION, schema_version=SCHEMA_VERSION)
    weights = path / WEIGHTS
    try:
        stored = SearchSpace.from_dict(description["space"])
        digest: str = description["weights"]["sha256"]
        origin: dict[str, Any] = description["provenance"]
    except (KeyError, TypeError) as error:
        raise FileError(f"{path / DESCRIPTION} is damaged: {error} is missing") from error
    except DepsError as error:
        raise FileError(f"{path / DESCRIPTION} is damaged: {error}") from error
    if space is not None and dataclasses.replace(space, num_classes=stored.num_classes) != stored:
        detail = "" if space.name != stored.name else ", whose definition has changed since"
        raise CheckpointError(f"{path} holds a supernet of {stored.name}{detail}, not of {space.name}")
    if weights.exists() and sha256_of(weights) != digest:
        raise FileError(
            f"{weights} is damaged or was replaced: its SHA-256 is not the one in {DESCRIPTION}; copy it again"
        )
    return Supernet(stored, load_tensors(weights), provenance=origin)


def _load_published(path: Path, space: SearchSpace | None) -> Supernet:
    from deps.supernet.published import supernet_from_published
    from deps.supernet.torch_file import read_state_dict

    state = read_state_dict(path)
    try:
        supernet = supernet_from_published(state, space=space)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    supernet.provenance = {"published": {"file": path.name, "sha256": sha256_of(path)}}
    return supernet
