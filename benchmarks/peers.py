"""Another server with the same ONNX file, to be measured beside ours: Triton's core, as the pytriton wheel holds it.

Relies on an environment of its own, which holds it, NumPy and ONNX Runtime; nothing of deps is imported:

    python3 -m venv /tmp/triton && /tmp/triton/bin/pip install nvidia-pytriton==0.7.0 onnxruntime numpy
    benchmarks/serving.py --peers triton=/tmp/triton/bin/python …

It takes the same body as we do: JSON, then the tensor as raw FP32.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def session(path: str) -> Any:
    """Return an ONNX Runtime session with one thread, as all are measured with."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


TRITON_MODEL = """
import numpy as np, onnxruntime
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession({path!r}, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        parts = [pb.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        images = parts[0] if len(parts) == 1 else np.concatenate(parts)
        (logits,) = self.session.run(None, {{"input": images}})
        answers, first = [], 0
        for part in parts:
            rows = logits[first : first + len(part)]
            first += len(part)
            answers.append(pb.InferenceResponse([pb.Tensor("logits", rows)]))
        return answers
"""

TRITON_CONFIG = """
name: "m" backend: "python" max_batch_size: 16
input [{{ name: "input" data_type: TYPE_FP32 dims: [3, {size}, {size}] }}]
output [{{ name: "logits" data_type: TYPE_FP32 dims: [{classes}] }}]
dynamic_batching {{ }}
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""


def triton(path: str, size: int, port: int) -> None:
    """Become tritonserver with its Python backend, dynamic batching on."""
    import pytriton

    home = Path(pytriton.__file__).parent / "tritonserver"
    folder = Path(tempfile.mkdtemp(prefix="peer-triton-"))
    models = folder / "models"
    (models / "m" / "1").mkdir(parents=True)
    (models / "m" / "1" / "model.py").write_text(TRITON_MODEL.format(path=path))
    classes = session(path).get_outputs()[0].shape[1]
    (models / "m" / "config.pbtxt").write_text(TRITON_CONFIG.format(size=size, classes=classes))
    stubs = home / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    for source in [*(home / "backends" / "python").iterdir(), *stubs.iterdir()]:
        target = backend / source.name
        if not target.exists():
            target.symlink_to(source)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{home / 'external_libs'}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(entry for entry in sys.path if entry),
    }
    flags = [f"--model-repository={models}", f"--backend-directory={folder / 'backends'}", f"--http-port={port}"]
    flags += ["--allow-grpc=false", "--allow-metrics=false", "--log-verbose=0", "--http-thread-count=4"]
    os.execve(home / "bin" / "tritonserver", ["tritonserver", *flags], environment)


PEERS = {"triton": triton}


if __name__ == "__main__":
    name, model, pixels, where = sys.argv[1:5]
    PEERS[name](model, int(pixels), int(where))
