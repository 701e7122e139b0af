"""Search spaces, architectures, plain networks, and the one rule that slices a supernet.

What describes a subnet needs no torch; what computes is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from deps.supernet.arch import ArchSpec
from deps.supernet.space import ConvSpec, PoolSpec, SearchSpace, StageSpec
from deps.supernet.spaces import get_space, space_names

if TYPE_CHECKING:
    from deps.supernet.batchnorm import recalibrate_bn
    from deps.supernet.slicing import slice_weights
    from deps.supernet.supernet import Supernet

__all__ = [
    "ArchSpec",
    "ConvSpec",
    "PoolSpec",
    "SearchSpace",
    "StageSpec",
    "Supernet",
    "get_space",
    "recalibrate_bn",
    "slice_weights",
    "space_names",
]

_NEED_TORCH = {
    "Supernet": "deps.supernet.supernet",
    "recalibrate_bn": "deps.supernet.batchnorm",
    "slice_weights": "deps.supernet.slicing",
}


def __getattr__(name: str) -> Any:
    if name in _NEED_TORCH:
        from deps.ground.console import require

        require("torch", "compile")
        return getattr(importlib.import_module(_NEED_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
