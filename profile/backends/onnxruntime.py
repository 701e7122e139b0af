"""Time nets with ONNX Runtime on the processor, as the server runs them, and look into them with its own profiler.

Relies on each node's events in the runtime's profile standing in the order in which the nodes ran.
"""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from deps.ground.errors import LatencyTableError
from deps.profile.backends.base import Conditions, NodeTimes, Sample
from deps.profile.fingerprint import processor
from deps.profile.gate import most_runnable, timed
from deps.serve.targets import Target
from deps.supernet.pieces import Piece
from deps.supernet.plan import NetworkPlan


def open_backend(conditions: Conditions, target: Target, name: str) -> OnnxRuntimeBackend:
    """Return ONNX Runtime on this machine's processor."""
    del target, name
    return OnnxRuntimeBackend(conditions)


class OnnxRuntimeBackend:
    """ONNX Runtime on the processor, under fixed conditions."""

    name = "onnxruntime"
    has_node_times = True
    loads = 3
    has_cpu_clock = True
    max_group = 1000

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions

    def facts(self) -> dict[str, Any]:
        """Return the processor, its clocks, and the runtime's version."""
        return {**processor(), "onnxruntime": onnxruntime.__version__, "spin": self.conditions.spin}

    def load(self, path: Path, what: NetworkPlan | Piece, *, is_profiled: bool) -> OnnxRuntimeNet:
        """Load a net.

        Raises:
            LatencyTableError: the runtime cannot load it.
        """
        del what
        return OnnxRuntimeNet(path, self.conditions, is_profiled=is_profiled)


def make_session(path: Path, conditions: Conditions, providers: list[Any], profile: Path | None = None) -> Any:
    """Return a session with the settings of the server.

    Raises:
        LatencyTableError: the runtime cannot load the net.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = conditions.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(conditions.spin)))
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common base of their own
        reason = str(error).strip().partition("\n")[0]
        raise LatencyTableError(f"{path} cannot be loaded by onnxruntime ({reason}); write the kit again") from error


def made_up_input(session: Any, batch: int) -> tuple[str, Any]:
    """Return the name of a net's input, and a batch of noise for it."""
    (image,) = session.get_inputs()
    return image.name, np.random.default_rng(0).standard_normal((batch, *image.shape[1:]), np.float32)


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Return the folder of this process's profiles; it goes at the end, whatever an interrupt left in it."""
    return tempfile.TemporaryDirectory(prefix="deps-profile-", ignore_cleanup_errors=True)


class OnnxRuntimeNet:
    """One session; its profile, where it has one, lies in a folder that goes with it."""

    def __init__(self, path: Path, conditions: Conditions, *, is_profiled: bool) -> None:
        self._session: Any = None
        self._folder = Path(tempfile.mkdtemp(dir=_scratch().name)) if is_profiled else None
        profile = None if self._folder is None else self._folder / "net"
        try:
            self._session = make_session(path, conditions, ["CPUExecutionProvider"], profile)
        except BaseException:  # an interrupt too must not leave the folder behind
            self.close()
            raise
        self._most = most_runnable(conditions.threads)
        name, batch = made_up_input(self._session, conditions.batch)
        self._feed = {name: batch}
        # For each run so far the stretch that it was timed in, or -1.
        self._stretch_of_run: list[int] = []
        self._stretches = 0

    def run(self) -> None:
        """Run once."""
        self._session.run(None, self._feed)
        self._stretch_of_run.append(-1)

    def timed(self, runs: int) -> Sample:
        """Run several times and return the time of one run."""
        sample = timed(lambda: self._session.run(None, self._feed), runs, most=self._most)
        self._stretch_of_run += [self._stretches] * runs
        self._stretches += 1
        return sample

    def node_times(self) -> NodeTimes:
        """Return the times of the nodes from the runtime's own profile; the session ends its profile.

        Raises:
            LatencyTableError: the profile does not hold the same nodes for every run.
        """
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        kernels = [event for event in events if event.get("name", "").endswith("_kernel_time")]
        runs = np.array(self._stretch_of_run)
        if not kernels or len(kernels) % len(runs):
            raise LatencyTableError(
                f"onnxruntime {onnxruntime.__version__} profiled {len(kernels)} nodes in {len(runs)} runs, which is "
                "no whole number a run; update onnxruntime"
            )
        times = np.array([event["dur"] for event in kernels], np.float64).reshape(len(runs), -1) / 1e3
        names = tuple(event["name"].removesuffix("_kernel_time") for event in kernels[: times.shape[1]])
        means = [times[runs == stretch].mean(axis=0) for stretch in range(self._stretches)]
        return NodeTimes(names, np.array(means).reshape(self._stretches, len(names)), holds_clock=True)

    def close(self) -> None:
        """Give the session and the folder back."""
        self._session = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
