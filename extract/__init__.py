"""From a budget to a verified bundle: search, measure, export, check.

Relies on ``deps.supernet``, ``deps.profile``, a finished run of ``deps.train``, and the manifest of ``deps.serve``.
What needs torch is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deps.extract.budget import Budget
    from deps.extract.config import ExtractConfig
    from deps.extract.pipeline import extract
    from deps.extract.report import Extraction, ExtractReport

__all__ = ["Budget", "ExtractConfig", "ExtractReport", "Extraction", "extract"]

_WHERE = {
    "Budget": "deps.extract.budget",
    "ExtractConfig": "deps.extract.config",
    "ExtractReport": "deps.extract.report",
    "Extraction": "deps.extract.report",
    "extract": "deps.extract.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
