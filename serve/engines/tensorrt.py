"""Run a subnet with TensorRT, full or for RTX, through ctypes on the device's own libcudart.

Relies on the engine's bytes having been checked against a hash that the bundle vouches for: deserializing runs native
code. Each (thread, batch size) has a lane of its own: context, stream, pinned buffers and, where it can be captured,
one CUDA graph that holds both copies and the inference, so that an answer costs one launch.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any, Protocol

import numpy as np

from deps.ground.errors import EngineError
from deps.serve.engines.base import FloatArray, check_batch
from deps.serve.engines.cudart import DEVICE_TO_HOST, HOST_TO_DEVICE, CudaRuntime, load_cudart
from deps.serve.engines.header import REBUILD, check_engine
from deps.serve.engines.runtimes import load_runtime, logged_calls
from deps.serve.manifest import BatchProfile, EngineFile

FLOAT_BYTES = 4


def narrowed(profile: BatchProfile, max_batch: int) -> BatchProfile:
    """Return the part of a profile that holds at most so many images, and at least its own smallest batch."""
    largest = max(profile.min, min(profile.max, max_batch))
    return BatchProfile(min=profile.min, opt=min(profile.opt, largest), max=largest)


def lane_sizes(profile: BatchProfile) -> tuple[int, ...]:
    """Return the batch sizes that get a lane: powers of two inside the profile, and its ends."""
    powers = (1 << exponent for exponent in range(profile.max.bit_length()))
    return tuple(sorted({profile.min, *(size for size in powers if profile.min <= size <= profile.max), profile.max}))


def padded_size(images: int, sizes: tuple[int, ...]) -> int:
    """Return the smallest lane that holds so many images; ``images`` is at most the largest."""
    return next(size for size in sizes if size >= images)


def why_not_on(capability: str, file: EngineFile, header_capabilities: tuple[str, ...]) -> str | None:
    """Return why an engine cannot run on a GPU of that compute capability, or None when it can."""
    built_for = file.compute_capabilities or header_capabilities
    if built_for and capability not in built_for:
        return f"it was built for compute capability {', '.join(built_for)}, and this GPU has {capability}"
    return None


class ImagesPort(Protocol):
    """The tensor that goes in."""

    @property
    def name(self) -> str:
        """As the engine calls it."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        ...


class LogitsPort(Protocol):
    """The tensor that comes out."""

    @property
    def name(self) -> str:
        """As the engine calls it."""
        ...

    @property
    def classes(self) -> int:
        """Numbers an image."""
        ...


class _Lane:
    """One context with its stream, buffers and graph, for one thread and one batch size."""

    def __init__(
        self, cuda: CudaRuntime, engine: Any, batch: int, input_spec: ImagesPort, output_spec: LogitsPort, messages: Any
    ) -> None:
        self._cuda = cuda
        self._releases: list[tuple[Any, int]] = []
        self._graph: int | None = None
        self.graph_failure: str | None = None
        try:
            self._stream = self._hold(cuda.create_stream(), cuda.destroy_stream)
            self._context: Any = engine.create_execution_context()
            if self._context is None:
                reason = messages.summary("no reason was given")
                raise EngineError(
                    f"no context for batch {batch}: {reason}; expected enough GPU memory; lower --max-batch"
                )
            self.images, self._host_in, self._device_in = self._buffers((batch, *input_spec.shape))
            self.logits, self._host_out, self._device_out = self._buffers((batch, output_spec.classes))
            accepted = (
                self._context.set_input_shape(input_spec.name, (batch, *input_spec.shape)),
                self._context.set_tensor_address(input_spec.name, self._device_in),
                self._context.set_tensor_address(output_spec.name, self._device_out),
            )
            if not all(accepted):
                reason = messages.summary("no reason was given")
                raise EngineError(
                    f"the engine refuses batch {batch}: {reason}; expected one inside its profile; {REBUILD}"
                )
            # Kernels are compiled or loaded on the first run, which must not happen inside a capture.
            self._enqueue()
            cuda.synchronize(self._stream)
            self._capture()
        except BaseException:
            self.release()
            raise

    def _hold(self, handle: int, release: Any) -> int:
        self._releases.append((release, handle))
        return handle

    def _buffers(self, shape: tuple[int, ...]) -> tuple[FloatArray, int, int]:
        """Return a pinned array, its address, and the address of as much memory on the GPU."""
        count = int(np.prod(shape))
        host = self._hold(self._cuda.malloc_host(count * FLOAT_BYTES), self._cuda.free_host)
        device = self._hold(self._cuda.malloc(count * FLOAT_BYTES), self._cuda.free)
        array = np.ctypeslib.as_array((ctypes.c_float * count).from_address(host)).reshape(shape)
        array[:] = 0  # padding rows are computed too, and must be numbers
        return array, host, device

    def _enqueue(self) -> None:
        """Queue copy in, inference, copy out."""
        stream = self._stream
        self._cuda.copy_async(self._device_in, self._host_in, self.images.nbytes, HOST_TO_DEVICE, stream)
        if not self._context.execute_async_v3(stream):
            raise EngineError("TensorRT refused to run; expected a free GPU; see the server's log")
        self._cuda.copy_async(self._host_out, self._device_out, self.logits.nbytes, DEVICE_TO_HOST, stream)

    def _capture(self) -> None:
        """Record the queue as a graph; an engine that cannot be recorded runs without, and says why."""
        try:
            self._cuda.begin_capture(self._stream)
            try:
                self._enqueue()
            finally:
                graph = self._cuda.end_capture(self._stream)  # also when queuing failed: else the stream stays captured
            self._graph = self._hold(graph, self._cuda.destroy_graph)
        except EngineError as error:
            self.graph_failure = str(error)

    def run(self) -> None:
        """Compute ``logits`` from ``images``, and wait."""
        if self._graph is not None:
            self._cuda.launch_graph(self._graph, self._stream)
        else:
            self._enqueue()
        self._cuda.synchronize(self._stream)

    def replay_ms(self, runs: int) -> float:
        """Return the milliseconds of one run, by the GPU's own clock, when so many are queued one behind the other."""
        start, end = self._cuda.create_event(), self._cuda.create_event()
        try:
            self._cuda.record_event(start, self._stream)
            for _ in range(runs):
                if self._graph is not None:
                    self._cuda.launch_graph(self._graph, self._stream)
                else:
                    self._enqueue()
            self._cuda.record_event(end, self._stream)
            return self._cuda.elapsed_ms(start, end) / runs
        finally:
            self._cuda.destroy_event(start)
            self._cuda.destroy_event(end)

    def layer_ms(self, profiler: Any, runs: int) -> None:
        """Run without a graph and let a profiler of TensorRT's hear of every layer; layers then run one by one."""
        self._context.profiler = profiler
        for _ in range(runs):
            self._enqueue()
            self._cuda.synchronize(self._stream)

    def release(self) -> None:
        """Give everything back, last made first."""
        while self._releases:
            release, handle = self._releases.pop()
            release(handle)
        self._context = None


class TensorRTEngine:
    """One deserialized engine with its lanes."""

    def __init__(
        self, engine: bytes, file: EngineFile, *, input_spec: ImagesPort, output_spec: LogitsPort, max_batch: int
    ) -> None:
        """Load an engine whose bytes were checked against ``file.sha256``.

        Args:
            engine: the engine's bytes.
            file: its record.
            input_spec: what the manifest says goes in; the engine must agree.
            output_spec: what the manifest says comes out; the engine must agree.
            max_batch: most images at once, if the engine's profile allows more.

        Raises:
            EngineError: no GPU or driver, an engine of another version or GPU, or one that TensorRT refuses.
            MissingExtraError: the runtime is not installed.
        """
        self._cuda = load_cudart()  # first of all: without a GPU, TensorRT 11 crashes on its own runtime object
        trt = load_runtime(file.runtime)
        header = check_engine(engine, flavour=file.runtime, runtime_version=trt.__version__)
        unfit = why_not_on(self._cuda.compute_capability(), file, header.compute_capabilities)
        if unfit is not None:
            raise EngineError(f"the engine {file.path} cannot run here: {unfit}; expected one for this GPU; {REBUILD}")
        self._file, self._input, self._output = file, input_spec, output_spec
        self._name = f"{file.runtime} {trt.__version__}"
        self._sizes = lane_sizes(narrowed(file.profile, max_batch))
        self._lanes: dict[tuple[int, int], _Lane] = {}
        with logged_calls(file.runtime) as (logger, messages):
            self._runtime = trt.Runtime(logger)
            self._engine = self._runtime.deserialize_cuda_engine(engine)
            if self._engine is None:
                reason = messages.summary("no reason was given")
                raise EngineError(
                    f"{self._name} refuses the engine {file.path}: {reason}; expected one built here; {REBUILD}"
                )
        names = {self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)}
        if names != {input_spec.name, output_spec.name}:
            raise EngineError(
                f"the engine {file.path} has the tensors {', '.join(sorted(names))}; "
                f"expected {input_spec.name} and {output_spec.name}, as the manifest says; {REBUILD}"
            )

    @property
    def name(self) -> str:
        """The backend, with its version."""
        return self._name

    @property
    def subnet(self) -> str:
        """Name of the subnet it runs."""
        return self._file.subnet

    @property
    def precision(self) -> str:
        """Precision of the file it was made from."""
        return self._file.precision

    @property
    def max_batch(self) -> int:
        """Most images that ``infer`` takes at once."""
        return self._sizes[-1]

    @property
    def warm_up_batches(self) -> tuple[int, ...]:
        """Every lane: making one captures a graph, and for RTX compiles kernels."""
        return self._sizes

    @property
    def runs_on_any_thread(self) -> bool:
        """False: a thread that is new here makes lanes of its own."""
        return False

    @property
    def graph_failures(self) -> dict[int, str]:
        """Why some batch sizes run without a CUDA graph; empty when all have one."""
        return {size: lane.graph_failure for (_, size), lane in self._lanes.items() if lane.graph_failure}

    def _lane(self, images: int) -> _Lane:
        key = (threading.get_ident(), padded_size(images, self._sizes))
        if key not in self._lanes:
            with logged_calls(self._file.runtime) as (_, messages):
                self._lanes[key] = _Lane(self._cuda, self._engine, key[1], self._input, self._output, messages)
        return self._lanes[key]

    def place(self, images: int) -> FloatArray | None:
        """Return the pinned memory of the lane that a batch of this size runs on; the GPU copies from it by itself.

        Raises:
            EngineError: there is no memory for another lane.
        """
        return self._lane(images).images[:images]

    def infer(self, batch_NCHW: FloatArray) -> FloatArray:
        """Return the logits, shape (N, V), of 1 to ``max_batch`` images; the rest of the lane is padding.

        Raises:
            EngineError: a batch it was not made for, or CUDA or TensorRT failed.
        """
        check_batch(batch_NCHW, self._input.shape, self.max_batch)
        images = len(batch_NCHW)
        lane = self._lane(images)
        if batch_NCHW.ctypes.data != lane.images.ctypes.data:
            lane.images[:images] = batch_NCHW
        lane.run()
        return lane.logits[:images].copy()

    def replay_ms(self, images: int, runs: int) -> float:
        """Return the milliseconds of one run of a batch, copies included, by the GPU's own clock.

        Raises:
            EngineError: CUDA or TensorRT failed.
        """
        return self._lane(images).replay_ms(runs)

    def layer_ms(self, images: int, runs: int) -> dict[str, float]:
        """Return the milliseconds of each layer in one run of a batch, by name, in the order in which they run.

        Layers are timed one by one, so their sum is more than a run takes; the engine is slower from then on.

        Raises:
            EngineError: CUDA or TensorRT failed.
        """
        trt = load_runtime(self._file.runtime)
        total: dict[str, float] = {}

        class Listener(trt.IProfiler):  # type: ignore[misc, name-defined]  # the base is loaded at run time
            """Adds up what it is told."""

            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                """Receive the time of one layer in one run."""
                total[layer_name] = total.get(layer_name, 0.0) + ms

        self._lane(images).layer_ms(Listener(), runs)
        return {name: ms / runs for name, ms in total.items()}

    def trim(self) -> None:
        """Do nothing: every lane keeps its memory, which its graph knows by address."""

    def close(self) -> None:
        """Give back the lanes, the engine and the runtime, in this order."""
        while self._lanes:
            self._lanes.popitem()[1].release()
        self._engine = None
        self._runtime = None
