"""What a training computes on, in which type and layout.

Relies on what was measured: bf16 and channels-last are what GPUs with tensor cores are fast at; on the processors at
hand (AVX2, one thread) neither was faster, so these keep float32 and contiguous maps.
"""

from __future__ import annotations

import os

import torch

from deps.ground.errors import RunError
from deps.train.distributed import world_size


def resolve_device(name: str) -> torch.device:
    """Return the device that ``--device`` names; under ``torchrun`` each process of a machine takes the next GPU.

    Raises:
        RunError: it is unknown, or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise RunError(f"unknown device {name!r}; known: auto, cpu, cuda")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RunError("no CUDA device was found here; use --device cpu")
    if world_size() == 1:
        return torch.device("cuda")
    local_rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= count:
        raise RunError(f"{local_rank + 1} processes were started here and there are {count} GPUs; start one for each")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type that convolutions and products compute in; None leaves them in float32.

    Raises:
        RunError: bf16 was asked for on a GPU that has none.
    """
    has_bf16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not has_bf16:
        raise RunError(f"{torch.cuda.get_device_name(device)} has no bf16; use --precision fp32")
    wanted = precision == "bf16" or (precision == "auto" and device.type == "cuda" and has_bf16)
    return torch.bfloat16 if wanted else None


def memory_format(device: torch.device, layout: str = "auto") -> torch.memory_format:
    """Return the layout of images and maps: the one asked for, or with auto the one that is fast on a device."""
    is_last = layout == "channels-last" or (layout == "auto" and device.type == "cuda")
    return torch.channels_last if is_last else torch.contiguous_format
