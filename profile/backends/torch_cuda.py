"""Time nets with PyTorch on a CUDA GPU, channels last: eager, or as a CUDA graph; for a workstation without TensorRT.

Relies on torch, and on the plan of a net instead of its ONNX file. Pieces are timed inside whole nets, between events
of the GPU's own clock; a graph holds no such events, so there pieces are timed in eager runs of the same net and the
anchors say what the graph saves.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deps.ground.console import require
from deps.ground.errors import EngineError
from deps.profile.backends.base import Conditions, NodeTimes, Sample
from deps.profile.fingerprint import gpu, processor
from deps.serve.targets import Target
from deps.supernet.pieces import Piece, input_shape
from deps.supernet.plan import NetworkPlan

if TYPE_CHECKING:
    import torch

WARM_RUNS = 3
"""Runs before a graph is recorded: libraries choose their kernels on the first."""


def open_backend(conditions: Conditions, target: Target, name: str) -> TorchCudaBackend:
    """Return PyTorch on this machine's GPU.

    Raises:
        EngineError: torch sees no GPU.
        MissingExtraError: torch is not installed.
    """
    del target
    torch = require("torch", "compile")
    if not torch.cuda.is_available():
        raise EngineError(f"torch {torch.__version__} sees no CUDA GPU; expected one with its driver; see nvidia-smi")
    return TorchCudaBackend(conditions, name, is_graph=name == "torch-cuda")


def piece_modules(what: NetworkPlan | Piece) -> list[tuple[str, torch.nn.Module]]:
    """Return the plain modules of a net, piece by piece, with the names of the pieces."""
    from deps.supernet.blocks import module_of

    pieces = list(what.pieces()) if isinstance(what, NetworkPlan) else [what]
    return [(piece.name, module_of(piece, 1e-5, 0.1).eval()) for piece in pieces]


class TorchCudaBackend:
    """PyTorch on a GPU, under fixed conditions."""

    has_node_times = True
    loads = 1
    has_cpu_clock = False
    max_group = 64

    def __init__(self, conditions: Conditions, name: str, *, is_graph: bool) -> None:
        self.name = name
        self.conditions = conditions
        self.is_graph = is_graph

    def facts(self) -> dict[str, Any]:
        """Return the GPU, the driver, the limits of the clocks and the versions."""
        torch = require("torch", "compile")
        versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        return {**processor(), **gpu(), **versions}

    def load(self, path: Path, what: NetworkPlan | Piece, *, is_profiled: bool) -> TorchCudaNet:
        """Make the net of its plan."""
        del path
        return TorchCudaNet(what, self.conditions, is_graph=self.is_graph and not is_profiled, is_profiled=is_profiled)


class TorchCudaNet:
    """One module, and its CUDA graph where it has one."""

    def __init__(self, what: NetworkPlan | Piece, conditions: Conditions, *, is_graph: bool, is_profiled: bool) -> None:
        self._torch = torch = require("torch", "compile")
        kind = torch.float16 if conditions.precision == "fp16" else torch.float32
        place: dict[str, Any] = {"device": "cuda", "dtype": kind, "memory_format": torch.channels_last}
        self._pieces = [(name, module.to(**place)) for name, module in piece_modules(what)]
        first = next(what.pieces()) if isinstance(what, NetworkPlan) else what
        image = torch.randn((conditions.batch, *input_shape(first)))
        self._image = image.to(**place)
        self._is_profiled = is_profiled
        self._nodes: list[list[float]] = []
        self._graph: Any = None
        with torch.inference_mode():
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(WARM_RUNS):
                    self._forward()
            stream.synchronize()
            if is_graph:
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph):
                    self._result = self._forward()

    def _forward(self) -> Any:
        x = self._image
        for _, module in self._pieces:
            x = module(x)
        return x

    def _launch(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        else:
            self._forward()

    def run(self) -> None:
        """Run once and wait."""
        with self._torch.inference_mode():
            self._launch()
        self._torch.cuda.synchronize()

    def timed(self, runs: int) -> Sample:
        """Run several times and return the time of one run, by the GPU's own clock."""
        with self._torch.inference_mode():
            if self._is_profiled:
                return self._looked_into(runs)
            start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(runs):
                self._launch()
            end.record()
            end.synchronize()
        ms = start.elapsed_time(end) / runs
        return Sample(ms, ms, True)

    def _looked_into(self, runs: int) -> Sample:
        """Run with an event of the GPU between any two pieces."""
        total = np.zeros(len(self._pieces))
        for _ in range(runs):
            events = [self._torch.cuda.Event(enable_timing=True) for _ in range(len(self._pieces) + 1)]
            x = self._image
            events[0].record()
            for (_, module), event in zip(self._pieces, events[1:], strict=True):
                x = module(x)
                event.record()
            events[-1].synchronize()
            total += [first.elapsed_time(second) for first, second in itertools.pairwise(events)]
        self._nodes.append((total / runs).tolist())
        ms = float(total.sum()) / runs
        return Sample(ms, ms, True)

    def node_times(self) -> NodeTimes:
        """Return the times of the pieces."""
        return NodeTimes(tuple(name for name, _ in self._pieces), np.array(self._nodes))

    def close(self) -> None:
        """Give the memory back."""
        self._graph = self._result = None
        self._pieces = []
        self._torch.cuda.empty_cache()
