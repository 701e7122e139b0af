"""Time nets with ONNX Runtime on a CUDA GPU; images stay on the GPU, as far as the runtime lets them.

Relies on ``onnxruntime-gpu`` being installed in place of ``onnxruntime``. Its profiler tells when kernels were
launched, not how long they ran, so pieces are timed alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from deps.ground.errors import EngineError, LatencyTableError
from deps.profile.backends.base import Conditions, NodeTimes, Sample
from deps.profile.backends.onnxruntime import made_up_input, make_session
from deps.profile.fingerprint import gpu, processor
from deps.profile.gate import timed
from deps.serve.engines.cudart import load_cudart
from deps.serve.targets import Target
from deps.supernet.pieces import Piece
from deps.supernet.plan import NetworkPlan

PROVIDER = "CUDAExecutionProvider"


def open_backend(conditions: Conditions, target: Target, name: str) -> OnnxRuntimeCudaBackend:
    """Return ONNX Runtime on this machine's GPU.

    Raises:
        EngineError: there is no GPU, or the installed ONNX Runtime cannot use one.
    """
    del target, name
    load_cudart()
    if PROVIDER not in onnxruntime.get_available_providers():
        raise EngineError(
            f"onnxruntime {onnxruntime.__version__} has no {PROVIDER}; expected onnxruntime-gpu; "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        )
    return OnnxRuntimeCudaBackend(conditions)


class OnnxRuntimeCudaBackend:
    """ONNX Runtime on a GPU, under fixed conditions."""

    name = "onnxruntime-cuda"
    has_node_times = False
    loads = 1
    has_cpu_clock = False
    max_group = 64

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions

    def facts(self) -> dict[str, Any]:
        """Return the GPU, the driver, the limits of the clocks and the versions."""
        return {**processor(), **gpu(), "onnxruntime": onnxruntime.__version__}

    def load(self, path: Path, what: NetworkPlan | Piece, *, is_profiled: bool) -> OnnxRuntimeCudaNet:
        """Load a net.

        Raises:
            LatencyTableError: the runtime cannot load it on the GPU.
        """
        del what, is_profiled
        return OnnxRuntimeCudaNet(path, self.conditions)


class OnnxRuntimeCudaNet:
    """One session whose input and output stay on the GPU."""

    def __init__(self, path: Path, conditions: Conditions) -> None:
        self._session: Any = make_session(path, conditions, [PROVIDER, "CPUExecutionProvider"])
        if self._session.get_providers()[0] != PROVIDER:
            # It would run on the processor without a word.
            raise LatencyTableError(f"{path} does not run on the GPU; install the CUDA that this onnxruntime-gpu needs")
        name, batch = made_up_input(self._session, conditions.batch)
        self._binding: Any = self._session.io_binding()
        self._image = onnxruntime.OrtValue.ortvalue_from_numpy(batch, "cuda", 0)
        self._binding.bind_ortvalue_input(name, self._image)
        self._binding.bind_output(self._session.get_outputs()[0].name, "cuda", 0)

    def run(self) -> None:
        """Run once and wait."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def timed(self, runs: int) -> Sample:
        """Run several times and return the time of one run, each waited for."""
        sample = timed(self.run, runs, most=1 << 30)
        return Sample(sample.ms, sample.ms, sample.is_clean)

    def node_times(self) -> NodeTimes:
        """Raise, since there are none."""
        raise LatencyTableError("ONNX Runtime times no single nodes on a GPU; write the kit with --blocks")

    def close(self) -> None:
        """Give the session back."""
        self._session = self._binding = self._image = None
