"""What measuring needs of a runtime, whatever it is: load a net, run it, time it, look into it where that is possible.

Relies on numpy alone; each backend imports its own runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from deps.ground.errors import LatencyTableError
from deps.serve.manifest import Precision
from deps.supernet.pieces import Piece
from deps.supernet.plan import NetworkPlan

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Conditions:
    """How every net of a session runs."""

    precision: Precision = "fp32"
    batch: int = 1
    threads: int = 1
    """Of the processor; a GPU does not care."""

    spin: bool = False
    """Whether idle threads wait in a loop: quicker on cores that nobody else needs, much slower on shared ones. The
    server does not."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise LatencyTableError(f"threads is {self.threads}; expected at least 1")
        if self.batch < 1:
            raise LatencyTableError(f"batch is {self.batch}; expected at least 1")


class Sample(NamedTuple):
    """One timed stretch of runs; times are of one run."""

    ms: float
    cpu_ms: float
    """Processor time of the calling thread; on a GPU the same as ``ms``."""

    is_clean: bool
    """Whether the system is known to have left the runs alone."""


class NodeTimes(NamedTuple):
    """The nodes of one net, in the order in which they run, over its timed stretches."""

    names: tuple[str, ...]
    times_ms: Matrix
    """Shape (stretches, nodes): each node's mean over the runs of a stretch."""

    holds_clock: bool = False
    """Whether the runtime writes down a node's run while its clock still goes, so that no node seems to take less."""


class Loaded(Protocol):
    """One net, ready to run."""

    def run(self) -> None:
        """Run once and wait for the result."""
        ...

    def timed(self, runs: int) -> Sample:
        """Run several times and return the time of one run."""
        ...

    def node_times(self) -> NodeTimes:
        """Return the times of the nodes, of a net that was loaded for it; the net cannot run afterwards."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class Backend(Protocol):
    """A runtime on a device, under fixed conditions."""

    @property
    def name(self) -> str:
        """As the user writes it after ``--backend``."""
        ...

    @property
    def has_node_times(self) -> bool:
        """Whether it can look into a net; without, pieces are timed alone."""
        ...

    @property
    def max_group(self) -> int:
        """How many nets to measure before they are remembered: few where loading one takes minutes."""
        ...

    @property
    def loads(self) -> int:
        """How often a measurement loads each net anew, to see it at several places in memory; 1 where that is dear."""
        ...

    @property
    def has_cpu_clock(self) -> bool:
        """Whether the calling thread's processor time says anything of a run."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what identifies the device and the runtime, and what its clocks are set to."""
        ...

    def load(self, path: Path, what: NetworkPlan | Piece, *, is_profiled: bool) -> Loaded:
        """Load a net.

        Args:
            path: its ONNX file.
            what: its layers, for a runtime that reads no ONNX.
            is_profiled: whether ``node_times`` will be asked for; only where ``has_node_times``.

        Raises:
            LatencyTableError: the runtime cannot load it.
        """
        ...
