"""What can run the nets of a kit: one file a runtime, each with the same few methods.

Relies on ``base.py`` for what they have in common; no runtime is imported before it is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deps.ground.errors import LatencyTableError

if TYPE_CHECKING:
    from deps.profile.backends.base import Backend, Conditions
    from deps.serve.manifest import Precision
    from deps.serve.targets import Target

BACKENDS: dict[str, tuple[Precision, ...]] = {
    "onnxruntime": ("fp32", "cpu-int8"),
    "onnxruntime-cuda": ("fp32", "fp16"),
    "tensorrt": ("fp16", "trt-int8", "fp32"),
    "torch-cuda": ("fp16", "fp32"),
    "torch-cuda-eager": ("fp16", "fp32"),
}
"""Every backend, and the precisions that it runs, its best first."""


def backend_names(target: Target) -> tuple[str, ...]:
    """Return the backends that can measure a target, the one that serves it first."""
    if "tensorrt" in target.backends:
        return ("tensorrt", "onnxruntime-cuda", "torch-cuda", "torch-cuda-eager")
    return ("onnxruntime",)


def choose(
    target: Target, backend: str | None, precision: str | None, written: Sequence[Precision]
) -> tuple[str, Precision]:
    """Return which backend measures which precision of a kit.

    Args:
        target: what the table is for.
        backend: the user's choice; by default what serves the target.
        precision: the user's choice; by default the first that was written and that the backend runs.
        written: the precisions of the kit.

    Raises:
        LatencyTableError: no such backend, or it does not run what was asked or written.
    """
    name = backend or backend_names(target)[0]
    if name not in BACKENDS:
        raise LatencyTableError(f"backend is {name!r}; expected one of {', '.join(BACKENDS)}; change --backend")
    usable: list[Precision] = [known for known in written if known in BACKENDS[name]]
    if precision is not None:
        usable = [known for known in usable if known == precision]
    if not usable:
        asked = precision or "none of them"
        raise LatencyTableError(
            f"the kit holds {', '.join(written)} and {name} runs {', '.join(BACKENDS[name])}, but {asked} in both; "
            "choose another --precision or --backend, or write the kit with --precision"
        )
    return name, usable[0]


def open_backend(name: str, conditions: Conditions, target: Target) -> Backend:
    """Return a backend, ready to load nets.

    Raises:
        EngineError: the device that it needs is not here; the message says which and what to do.
        LatencyTableError: it cannot keep the conditions.
        MissingExtraError: its runtime is not installed.
    """
    module = importlib.import_module(f"deps.profile.backends.{name.replace('-eager', '').replace('-', '_')}")
    opened: Backend = module.open_backend(conditions, target, name)
    return opened
