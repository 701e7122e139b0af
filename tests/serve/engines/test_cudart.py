"""The CUDA binding: its table is checked against a real libcudart, and a machine without a GPU gets a reason."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deps.ground.errors import EngineError
from deps.serve.engines.cudart import find_cudart, load_cudart, why_no_gpu

NO_GPU = why_no_gpu()
NO_CUDART = find_cudart() is None


@pytest.mark.skipif(NO_CUDART, reason="needs a libcudart")
def test_library_has_every_function_of_the_table():
    """A misspelt name would only show on the device; binding all of them at once shows it here."""
    runtime = find_cudart()
    assert runtime is not None
    assert runtime.runtime_version() >= 11_000


@pytest.mark.skipif(NO_CUDART or NO_GPU is None, reason="needs a libcudart and no GPU")
def test_failed_call_names_function_and_error():
    """CUDA's own words, not a bare number."""
    runtime = find_cudart()
    assert runtime is not None
    with pytest.raises(EngineError, match=r"cudaMalloc failed: CUDA error \d+: .+; expected a working GPU"):
        runtime.malloc(1024)


@pytest.mark.skipif(NO_GPU is None, reason="needs a machine without a GPU")
def test_reason_is_given_where_there_is_no_gpu():
    """The automatic choice prints this reason, so it must say what is missing."""
    assert NO_GPU is not None
    assert any(part in NO_GPU for part in ("libcudart", "driver", "GPU"))
    with pytest.raises(EngineError, match="no GPU can be used"):
        load_cudart()


def test_no_libcudart_is_a_reason_and_no_crash():
    """A board without CUDA at all: nothing is found, and that is said."""
    code = (
        "import ctypes; ctypes.CDLL = lambda name: (_ for _ in ()).throw(OSError(name));"
        "from deps.serve.engines.cudart import why_no_gpu; print(why_no_gpu())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "libcudart.so was not found (no CUDA on this machine)"


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU is not None, reason=f"needs a CUDA GPU: {NO_GPU}")
def test_copies_and_events_work_on_a_gpu():
    """Bytes go to the GPU and come back, and the events around them measure a time."""
    import ctypes

    from deps.serve.engines.cudart import DEVICE_TO_HOST, HOST_TO_DEVICE

    cuda = load_cudart()
    stream, device, host = cuda.create_stream(), cuda.malloc(64), cuda.malloc_host(128)
    start, end = cuda.create_event(), cuda.create_event()
    ctypes.memmove(host, bytes(range(64)), 64)
    cuda.record_event(start, stream)
    cuda.copy_async(device, host, 64, HOST_TO_DEVICE, stream)
    cuda.copy_async(host + 64, device, 64, DEVICE_TO_HOST, stream)
    cuda.record_event(end, stream)
    cuda.synchronize(stream)
    assert ctypes.string_at(host + 64, 64) == bytes(range(64))
    assert cuda.elapsed_ms(start, end) > 0
    for release, handle in ((cuda.destroy_event, start), (cuda.destroy_event, end), (cuda.free_host, host)):
        release(handle)
    cuda.free(device)
    cuda.destroy_stream(stream)
