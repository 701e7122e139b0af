"""Read the tensors of a torch checkpoint without executing what a pickle may contain.

Relies on ``torch.load(weights_only=True)``, which knows tensors and plain containers and refuses everything else.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deps.ground.errors import CheckpointError, FileError


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that holds a state dict, bare or under ``state_dict``.

    Raises:
        CheckpointError: the file holds something else, or a pickle that would execute code.
        FileError: the file is missing, empty or damaged.
    """
    value = _load(path)
    state = value.get("state_dict", value) if isinstance(value, Mapping) else value
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            f"{path} holds {_described(state)}; expected tensors by name, or these under 'state_dict'"
        )
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path} holds {_described(tensor)} at {name!r}; expected a tensor under a name")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(f"{path} holds a sparse or quantized tensor at {name!r}; expected plain numbers")
    return dict(state)


def _load(path: Path) -> Any:
    if path.exists() and not path.is_file():
        raise FileError(f"{path} is not a file; expected a checkpoint such as ofa_mbv3.pth")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
    if not content:
        raise FileError(f"{path} is empty; copy or download it again")
    try:
        with warnings.catch_warnings():
            # Files of old torch versions load with a remark about storages that a user can do nothing about.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # What is forbidden is told from what is garbage by torch's words alone.
        if any(word in str(error) for word in ("GLOBAL", "unrecognized", "Can only")):
            raise CheckpointError(
                f"{path} holds more than tensors, which is not loaded because it could execute code; "
                "expected a state dict: save module.state_dict() instead of the module"
            ) from error
        raise FileError(f"{path} is damaged or no torch checkpoint; copy or download it again") from error
    except Exception as error:
        # A damaged file can make the reader fail in any way, since what it reads are instructions.
        raise FileError(
            f"{path} is damaged or no torch checkpoint ({type(error).__name__}); copy or download it again"
        ) from error


def _described(value: Any) -> str:
    if isinstance(value, Mapping) and not value:
        return "an empty mapping"
    return f"a {type(value).__name__}"
