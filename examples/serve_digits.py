"""Serve a digits bundle, send it every test digit as a stranger's client would, and count the right answers.

Run by ``make serve``; needs a bundle made from a digits supernet. The client uses the Open Inference Protocol's binary
tensors and nothing of deps: this is all that a program in another language has to do.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def infer(address: str, model: str, images_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return logits of shape (N, classes); one request, tensors as raw bytes both ways."""
    raw = images_NCHW.astype("<f4").tobytes()
    tensor = {
        "name": "input",
        "shape": images_NCHW.shape,
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps(
        {"inputs": [tensor], "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{address}/v2/models/{model}/infer", head + raw, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        body, length = response.read(), int(response.headers["Inference-Header-Content-Length"])
    shape = json.loads(body[:length])["outputs"][0]["shape"]
    return np.frombuffer(body[length:], "<f4").reshape(shape)


def start(bundle: Path) -> tuple[subprocess.Popen[str], str]:
    """Start ``deps-serve`` on a free port; return the process and its address, which it prints on stderr."""
    command = [str(Path(sys.executable).with_name("deps-serve")), str(bundle), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        print(line.rstrip())
        if found := re.search(r"http://[\w.]+:\d+", line):
            return server, found[0]
    sys.exit(f"the server did not start (exit code {server.wait()})")


def main() -> None:
    """Serve, ask, compare with the manifest, stop."""
    from deps.train.datasets import load_data

    bundle = Path(sys.argv[1])
    manifest = json.loads((bundle / "manifest.json").read_text())
    test = load_data("digits").test
    server, address = start(bundle)
    try:
        right, began = 0, time.perf_counter()
        for images, labels in test.batches(8):
            logits = infer(address, manifest["name"], images.numpy())
            right += int((logits.argmax(1) == labels.numpy()).sum())
        seconds = time.perf_counter() - began
    finally:
        server.terminate()
        server.wait(30)
    share = f"{right} of {len(test)} test digits right over HTTP ({100 * right / len(test):.2f} %)"
    print(f"{share}, {len(test) / seconds:.0f} images/s")


if __name__ == "__main__":
    main()
