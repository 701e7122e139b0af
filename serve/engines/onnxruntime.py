"""Run a subnet with ONNX Runtime on the processor: the engine that works everywhere.

Relies on the model's bytes having been checked against the manifest. Threads do not spin while they wait: on shared
cores spinning was measured to make the median latency four times worse.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np

from deps.ground.errors import EngineError
from deps.serve.engines.base import FloatArray, check_batch
from deps.serve.manifest import REMAKE, InputSpec, OutputSpec


def usable_cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


@functools.cache
def share_arena() -> bool:
    """Make one arena of memory that all sessions of this process take from; False where ONNX Runtime refuses.

    Five subnets of a family run one after the other, so what one has used serves the next: their scratch memory was
    measured to fall from 77 to 14 MB.
    """
    import onnxruntime

    try:
        memory = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        )
        onnxruntime.create_and_register_allocator(memory, None)
    except (
        Exception
    ):  # ONNX Runtime's errors share no base class that it exports; sessions then keep arenas of their own
        return False
    return True


def default_threads() -> int:
    """Return how many threads an engine should use: all cores but the one that the server needs."""
    return max(1, usable_cores() - 1)


class OnnxRuntimeEngine:
    """One ONNX Runtime session."""

    def __init__(
        self,
        model: bytes,
        *,
        subnet: str,
        precision: str,
        input_spec: InputSpec,
        output_spec: OutputSpec,
        max_batch: int,
        num_threads: int | None = None,
    ) -> None:
        """Load the model.

        Args:
            model: the ONNX file's content.
            subnet: name of the subnet, for answers.
            precision: precision of the file, for answers.
            input_spec: what the manifest says goes in; the model must agree.
            output_spec: what the manifest says comes out; the model must agree.
            max_batch: most images at once.
            num_threads: threads inside one inference; ``default_threads()`` when None.

        Raises:
            EngineError: the model cannot be loaded, or is not the one that the manifest describes.
        """
        import onnxruntime

        self._name = f"onnxruntime {onnxruntime.__version__}"
        self._subnet, self._precision, self._max_batch = subnet, precision, max_batch
        self._input, self._output = input_spec, output_spec
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or default_threads()
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if share_arena():
            options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no base class that it exports
            raise EngineError(
                f"{self._name} cannot load subnet {subnet} {precision}: {_first_line(error)}; "
                "expected a model it can run; install a newer onnxruntime, or choose another --precision"
            ) from error
        self._check_signature(session)
        self._session: Any = session

    def _check_signature(self, session: Any) -> None:
        taken = {tensor.name: tuple(tensor.shape[1:]) for tensor in session.get_inputs()}
        given = {tensor.name: tuple(tensor.shape[1:]) for tensor in session.get_outputs()}
        expected_in, expected_out = {self._input.name: self._input.shape}, {self._output.name: (self._output.classes,)}
        if taken != expected_in or given != expected_out:
            raise EngineError(
                f"the model of subnet {self._subnet} {self._precision} takes {taken} and gives {given}; "
                f"expected {expected_in} and {expected_out}, as the manifest says; {REMAKE}"
            )

    @property
    def name(self) -> str:
        """The backend, with its version."""
        return self._name

    @property
    def subnet(self) -> str:
        """Name of the subnet it runs."""
        return self._subnet

    @property
    def precision(self) -> str:
        """Precision of the file it was made from."""
        return self._precision

    @property
    def max_batch(self) -> int:
        """Most images that ``infer`` takes at once."""
        return self._max_batch

    @property
    def warm_up_batches(self) -> tuple[int, ...]:
        """One image: the session allocates its memory then."""
        return (1,)

    @property
    def runs_on_any_thread(self) -> bool:
        """True: a session belongs to no thread."""
        return True

    def place(self, images: int) -> FloatArray | None:
        """Return None: the processor reads images where they are."""
        del images
        return None

    def infer(self, batch_NCHW: FloatArray) -> FloatArray:
        """Return the logits, shape (N, V), of 1 to ``max_batch`` images.

        Raises:
            EngineError: a batch it was not made for, or ONNX Runtime failed.
        """
        check_batch(batch_NCHW, self._input.shape, self._max_batch)
        if self._session is None:
            raise EngineError("the engine is closed; expected an open one; load the bundle again")
        try:
            (logits_NV,) = self._session.run([self._output.name], {self._input.name: batch_NCHW})
        except Exception as error:
            raise EngineError(
                f"{self._name} failed: {_first_line(error)}; expected an answer; see the server's log"
            ) from error
        return np.asarray(logits_NV, dtype=np.float32)

    def trim(self) -> None:
        """Run one blank image, after which the arena gives back what is not in use."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        blank_NCHW = np.zeros((1, *self._input.shape), dtype=np.float32)
        self._session.run([self._output.name], {self._input.name: blank_NCHW}, options)

    def close(self) -> None:
        """Give the session back."""
        self._session = None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
