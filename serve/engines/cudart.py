"""The CUDA runtime through ctypes: just the calls that an inference needs, on whatever libcudart the device has.

Relies on these signatures being the same from CUDA 11.7 to 13. Nothing is loaded before ``load_cudart``, and the first
call made is ``cudaGetDeviceCount``, which fails politely where others would crash.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
from collections.abc import Iterator
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from pathlib import Path
from typing import Any

from deps.ground.errors import EngineError

MAJORS = ("13", "12", "11")

HOST_TO_DEVICE = 1
DEVICE_TO_HOST = 2
CAPTURE_THREAD_LOCAL = 1
STREAM_NON_BLOCKING = 1
EVENT_DEFAULT = 0

_ATTRIBUTE_MAJOR = 75
_ATTRIBUTE_MINOR = 76

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaGetDeviceCount": (POINTER(c_int),),
    "cudaDriverGetVersion": (POINTER(c_int),),
    "cudaRuntimeGetVersion": (POINTER(c_int),),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaSetDevice": (c_int,),
    "cudaMemGetInfo": (POINTER(c_size_t), POINTER(c_size_t)),
    "cudaMalloc": (POINTER(c_void_p), c_size_t),
    "cudaFree": (c_void_p,),
    "cudaHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (POINTER(c_void_p), c_uint),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cudaGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaGraphDestroy": (c_void_p,),
    "cudaEventCreateWithFlags": (POINTER(c_void_p), c_uint),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventSynchronize": (c_void_p,),
    "cudaEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cudaEventDestroy": (c_void_p,),
    "cudaGetLastError": (),
}


def _candidates() -> Iterator[str]:
    """Yield where a libcudart may be found: the linker's names, NVIDIA's Python packages, the usual folders."""
    yield from (f"libcudart.so.{major}" for major in MAJORS)
    yield "libcudart.so"
    for package in ("nvidia.cu13", "nvidia.cuda_runtime"):
        try:
            found = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for folder in (found.submodule_search_locations or ()) if found else ():
            yield from (str(path) for path in sorted(Path(folder, "lib").glob("libcudart.so.*")))
    yield from (str(path) for path in sorted(Path("/usr/local").glob("cuda*/lib64/libcudart.so.*")))


class CudaRuntime:
    """One loaded libcudart; every method raises ``EngineError`` with CUDA's own words."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name = name
        self._library = library
        for function, arguments in _SIGNATURES.items():
            bound = getattr(library, function)
            bound.argtypes, bound.restype = arguments, c_int
        library.cudaGetErrorString.argtypes = (c_int,)
        library.cudaGetErrorString.restype = c_char_p

    def error_text(self, code: int) -> str:
        """Return CUDA's description of an error code."""
        text: bytes = self._library.cudaGetErrorString(code)
        return f"CUDA error {code}: {text.decode(errors='replace')}"

    def call(self, function: str, *arguments: Any) -> None:
        """Call one function of the runtime.

        Raises:
            EngineError: it returned an error.
        """
        code = getattr(self._library, function)(*arguments)
        if code != 0:
            self._library.cudaGetLastError()  # an error that is not fetched would be reported by the next call too
            raise EngineError(f"{function} failed: {self.error_text(code)}; expected a working GPU; see nvidia-smi")

    def _integer(self, function: str, *arguments: Any) -> int:
        value = c_int()
        self.call(function, byref(value), *arguments)
        return value.value

    def _pointer(self, function: str, *arguments: Any) -> int:
        value = c_void_p()
        self.call(function, byref(value), *arguments)
        assert value.value is not None, function
        return value.value

    def why_no_device(self) -> str | None:
        """Return why no GPU can be used, or None when one can."""
        count = c_int()
        code = self._library.cudaGetDeviceCount(byref(count))
        if code != 0:
            self._library.cudaGetLastError()
            driver = self.driver_version()
            missing = "no NVIDIA driver is loaded" if driver == 0 else f"the driver serves CUDA {driver // 1000}"
            return f"{missing} ({self.error_text(code)})"
        return None if count.value > 0 else "the NVIDIA driver sees no GPU"

    def driver_version(self) -> int:
        """Return the newest CUDA that the driver serves, e.g. 13020 for 13.2; 0 without a driver."""
        return self._integer("cudaDriverGetVersion")

    def runtime_version(self) -> int:
        """Return the version of this library, e.g. 13020."""
        return self._integer("cudaRuntimeGetVersion")

    def compute_capability(self, device: int = 0) -> str:
        """Return a GPU's compute capability, e.g. ``"8.7"``."""
        major = self._integer("cudaDeviceGetAttribute", _ATTRIBUTE_MAJOR, device)
        return f"{major}.{self._integer('cudaDeviceGetAttribute', _ATTRIBUTE_MINOR, device)}"

    def memory_bytes(self) -> tuple[int, int]:
        """Return the free and the total memory of the current GPU."""
        free, total = c_size_t(), c_size_t()
        self.call("cudaMemGetInfo", byref(free), byref(total))
        return free.value, total.value

    def malloc(self, size_bytes: int) -> int:
        """Return the address of new memory on the GPU."""
        return self._pointer("cudaMalloc", size_bytes)

    def free(self, address: int) -> None:
        """Give GPU memory back."""
        self.call("cudaFree", address)

    def malloc_host(self, size_bytes: int) -> int:
        """Return the address of new pinned memory of the host, which the GPU copies from without help."""
        return self._pointer("cudaHostAlloc", size_bytes, 0)

    def free_host(self, address: int) -> None:
        """Give pinned memory back."""
        self.call("cudaFreeHost", address)

    def copy_async(self, to: int, source: int, size_bytes: int, kind: int, stream: int) -> None:
        """Queue a copy on a stream; ``kind`` is ``HOST_TO_DEVICE`` or ``DEVICE_TO_HOST``."""
        self.call("cudaMemcpyAsync", to, source, size_bytes, kind, stream)

    def create_stream(self) -> int:
        """Return a new stream that does not wait for the default one."""
        return self._pointer("cudaStreamCreateWithFlags", STREAM_NON_BLOCKING)

    def synchronize(self, stream: int) -> None:
        """Wait until a stream is done; the interpreter lock is free meanwhile."""
        self.call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self.call("cudaStreamDestroy", stream)

    def begin_capture(self, stream: int) -> None:
        """Record what this thread queues on the stream instead of running it."""
        self.call("cudaStreamBeginCapture", stream, CAPTURE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """Return the runnable form of the graph that was recorded."""
        recorded = c_void_p()
        self.call("cudaStreamEndCapture", stream, byref(recorded))
        if recorded.value is None:
            raise EngineError("no CUDA graph was recorded; expected a stream that can be captured; run without graphs")
        try:
            return self._pointer("cudaGraphInstantiateWithFlags", recorded, 0)
        finally:
            self.call("cudaGraphDestroy", recorded)

    def launch_graph(self, graph: int, stream: int) -> None:
        """Queue a recorded graph on a stream."""
        self.call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give a runnable graph back."""
        self.call("cudaGraphExecDestroy", graph)

    def create_event(self) -> int:
        """Return a new event that keeps time."""
        return self._pointer("cudaEventCreateWithFlags", EVENT_DEFAULT)

    def record_event(self, event: int, stream: int) -> None:
        """Mark the present end of a stream."""
        self.call("cudaEventRecord", event, stream)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Return the milliseconds between two recorded events, waiting for the second."""
        self.call("cudaEventSynchronize", end)
        value = c_float()
        self.call("cudaEventElapsedTime", byref(value), start, end)
        return value.value

    def destroy_event(self, event: int) -> None:
        """Give an event back."""
        self.call("cudaEventDestroy", event)


def _try_load(name: str) -> CudaRuntime | None:
    try:
        return CudaRuntime(ctypes.CDLL(name), name)
    except (OSError, AttributeError):
        return None


@functools.cache
def find_cudart() -> CudaRuntime | None:
    """Return the first libcudart that can be loaded, or None."""
    return next((runtime for name in _candidates() if (runtime := _try_load(name))), None)


def why_no_gpu() -> str | None:
    """Return why no GPU can be used here, or None when one can; safe on any machine."""
    runtime = find_cudart()
    if runtime is None:
        return "libcudart.so was not found (no CUDA on this machine)"
    return runtime.why_no_device()


def load_cudart() -> CudaRuntime:
    """Return the CUDA runtime, after it has seen a GPU.

    Raises:
        EngineError: there is none, no driver, or no GPU; the message says which.
    """
    runtime, reason = find_cudart(), why_no_gpu()
    if runtime is None or reason is not None:
        raise EngineError(
            f"no GPU can be used: {reason}; expected an NVIDIA GPU with its driver; use --engine onnxruntime"
        )
    return runtime
