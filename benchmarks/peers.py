"""Other servers with the same ONNX file, to be measured beside ours: Triton's core, LitServe and MLServer.

Relies on an environment of its own for each, with NumPy and ONNX Runtime; nothing of deps is imported. Triton's core is
in the pytriton wheel:

    for peer in nvidia-pytriton==0.7.0 litserve mlserver; do
        name=${peer%%=*}; name=${name#nvidia-py}
        python3 -m venv /tmp/peers/$name && /tmp/peers/$name/bin/pip install $peer onnxruntime numpy
    done
    benchmarks/serving.py --peers triton=/tmp/peers/triton/bin/python,litserve=…,mlserver=… …

Triton and LitServe take the same body as we do: JSON, then the tensor as raw FP32. MLServer has no binary tensors over
HTTP and gets the same bytes in base64. All join what waits, as each of them does it.
"""

from __future__ import annotations

import json
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
    import pytriton  # pyright: ignore[reportMissingImports]

    home = Path(str(pytriton.__file__)).parent / "tritonserver"
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


LITSERVE_SERVER = """
from typing import Annotated

import litserve
import numpy as np, onnxruntime
from fastapi import Body, Response

class Peer(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession({path!r}, options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]):
        return np.frombuffer(request[-4 * 3 * {size} * {size} :], np.float32).reshape(3, {size}, {size})

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, images):
        images = images if images.ndim == 4 else images[None]
        return self.session.run(None, {{"input": images}})[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")

if __name__ == "__main__":
    api = Peer(max_batch_size=8, batch_timeout=0.001, api_path="/v2/models/m/infer")
    server = litserve.LitServer(api, accelerator="cpu", healthcheck_path="/v2/health/ready")
    server.run(host="127.0.0.1", port={port}, generate_client_file=False, log_level="error")
"""


def litserve(path: str, size: int, port: int) -> None:
    """Become LitServe with one worker process and batches of up to 8."""
    script = Path(tempfile.mkdtemp(prefix="peer-litserve-")) / "serve.py"
    script.write_text(LITSERVE_SERVER.format(path=path, size=size, port=port))
    os.execv(sys.executable, [sys.executable, str(script)])


MLSERVER_MODEL = """
import base64
import numpy as np, onnxruntime
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput

class Peer(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession({path!r}, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload):
        texts = payload.inputs[0].data.root
        images = np.stack([np.frombuffer(base64.b64decode(text), np.float32) for text in texts])
        (logits,) = self.session.run(None, {{"input": images.reshape(-1, 3, {size}, {size})}})
        output = ResponseOutput(name="logits", datatype="FP32", shape=list(logits.shape), data=logits.ravel().tolist())
        return InferenceResponse(model_name="m", outputs=[output])
"""


def mlserver(path: str, size: int, port: int) -> None:
    """Become MLServer with adaptive batching, the model in the server's own process."""
    folder = Path(tempfile.mkdtemp(prefix="peer-mlserver-"))
    (folder / "peer.py").write_text(MLSERVER_MODEL.format(path=path, size=size))
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    model = {"name": "m", "implementation": "peer.Peer", "max_batch_size": 8, "max_batch_time": 0.001}
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = str(Path(sys.executable).with_name("mlserver"))
    os.execv(command, [command, "start", str(folder)])


PEERS = {"triton": triton, "litserve": litserve, "mlserver": mlserver}


if __name__ == "__main__":
    name, model, pixels, where = sys.argv[1:5]
    PEERS[name](model, int(pixels), int(where))
