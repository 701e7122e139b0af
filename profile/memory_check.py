"""Predicted memory of a subnet beside the memory that it really takes, in a process of its own.

``python -m deps.profile.memory_check MODEL BATCH THREADS DEVICE`` loads an ONNX file, runs it three times and prints
its footprint as JSON. Relies on ``memory.py`` for the prediction and on ``deps.ground.footprint``; measuring needs no
torch.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deps.ground.console import require, text_table
from deps.ground.footprint import Footprint, measure, measure_fresh
from deps.ground.units import format_bytes
from deps.profile.memory import activation_bytes, weight_bytes
from deps.supernet.arch import ArchSpec
from deps.supernet.plan import parameter_shapes, plan
from deps.supernet.space import SearchSpace

RUNS = 3
NOISE_STD = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryOf:
    """One subnet: what is predicted, and what was measured."""

    name: str
    arch: ArchSpec
    activation_bytes: int
    """Peak of the feature maps that live at once, of the whole batch, float32."""

    weight_bytes: int
    footprint: Footprint

    @property
    def predicted_bytes(self) -> int:
        """Feature maps and weights: the least that running the subnet takes."""
        return self.activation_bytes + self.weight_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryReport:
    """Predicted and measured memory of some subnets of one space."""

    space: str
    batch: int
    threads: int
    device: str
    subnets: tuple[MemoryOf, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        rows = [
            {
                "name": one.name,
                "arch": one.arch.to_dict(),
                "activation_bytes": one.activation_bytes,
                "weight_bytes": one.weight_bytes,
                "predicted_bytes": one.predicted_bytes,
                "measured": one.footprint.to_dict(),
            }
            for one in self.subnets
        ]
        facts = {"space": self.space, "batch": self.batch, "threads": self.threads, "device": self.device}
        return {**facts, "subnets": rows}

    def to_text(self) -> str:
        """Return a table for a person, and what the columns mean."""

        def size(value: int | None) -> str:
            return "-" if value is None else format_bytes(max(0, value))

        header = ["subnet", "px", "activations", "weights", "predicted", "peak", "afterwards", "on the GPU"]
        rows = [
            [
                one.name,
                str(one.arch.resolution),
                size(one.activation_bytes),
                size(one.weight_bytes),
                size(one.predicted_bytes),
                size(one.footprint.peak_bytes),
                size(one.footprint.resident_bytes),
                size(one.footprint.gpu_bytes),
            ]
            for one in self.subnets
        ]
        reasons = sorted({one.footprint.reason for one in self.subnets if one.footprint.reason})
        title = f"{self.space}, batch {self.batch}, float32, ONNX Runtime on {self.device}, threads {self.threads}"
        legend = (
            "predicted: feature maps that live at once, and weights; peak, afterwards: what loading and running added "
            "to a fresh process, a session's own needs included; on the GPU: what the driver says"
        )
        return "\n".join([title, "", text_table(header, rows), "", legend, *[f"not measured: {r}" for r in reasons]])


def memory_of(
    space: SearchSpace, name: str, arch: ArchSpec, *, batch: int = 1, threads: int = 1, device: str = "cpu"
) -> MemoryOf:
    """Return the predicted memory of a subnet, and what a session of it takes in a fresh process.

    Args:
        space: the search space.
        name: what the subnet is called in the report.
        arch: the subnet.
        batch: images of a run.
        threads: of the session.
        device: ``cpu`` or ``cuda``.

    Raises:
        ArchError: ``arch`` is not of this space.
        DepsError: the session failed, for instance because ONNX Runtime cannot use the GPU.
        MissingExtraError: onnx is not installed.
    """
    require("onnx", "compile")
    from deps.supernet.onnx_graph import onnx_from_subnet

    subnet = plan(space, arch)
    rng = np.random.default_rng(0)
    weights = {
        key: np.abs(NOISE_STD * rng.standard_normal(shape, np.float32))
        for key, shape in parameter_shapes(subnet).items()
    }
    with tempfile.TemporaryDirectory(prefix="deps-memory-") as folder:
        model = Path(folder) / "subnet.onnx"
        model.write_bytes(onnx_from_subnet(subnet, weights, eps=space.norm_eps).SerializeToString())
        footprint = measure_fresh("deps.profile.memory_check", [str(model), str(batch), str(threads), device])
    return MemoryOf(
        name=name,
        arch=arch,
        activation_bytes=batch * activation_bytes(subnet),
        weight_bytes=weight_bytes(subnet),
        footprint=footprint,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one ONNX file and print its footprint."""
    model, batch, threads, device = argv if argv is not None else sys.argv[1:]
    import onnxruntime

    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        known = ", ".join(onnxruntime.get_available_providers())
        print(f"this onnxruntime has no {provider} (it has {known}); install onnxruntime-gpu", file=sys.stderr)  # noqa: T201
        return 1
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)

    def work() -> Any:
        session = onnxruntime.InferenceSession(model, options, providers=[provider])
        (node,) = session.get_inputs()
        images_NCHW = np.zeros((int(batch), *node.shape[1:]), np.float32)
        for _ in range(RUNS):
            session.run(None, {node.name: images_NCHW})
        return session

    print(json.dumps(measure(work, gpu=device == "cuda").to_dict()))  # noqa: T201 a program's one answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
