"""Ask NVIDIA's Triton and deps-serve the same things, and list where their answers differ, and why.

Relies on the tritonserver inside the nvidia-pytriton wheel, in an environment of its own that also holds onnxruntime:

    python3 -m venv /tmp/triton && /tmp/triton/bin/pip install nvidia-pytriton==0.7.0 onnxruntime
    python benchmarks/protocol.py bundles/cpu-0.2ms --triton /tmp/triton --write docs/triton.md

Both serve the same ONNX file. A difference without a reason in ``REASONS`` fails the run, and so does a reason for a
difference that is gone. Statuses are compared, the keys of JSON answers, and the numbers of tensors.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from deps.serve.bundle import Bundle, read_bundle
from deps.serve.protocol import HEADER_LENGTH
from deps.serve.server import listen

START_S = 60

MODEL = """
import json

import onnxruntime
import triton_python_backend_utils as utils


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.session = onnxruntime.InferenceSession(parameters["onnx"]["string_value"])
        self.taken = self.session.get_inputs()[0].name
        self.given = self.session.get_outputs()[0].name

    def execute(self, requests):
        answers = []
        for request in requests:
            images = utils.get_input_tensor_by_name(request, self.taken).as_numpy()
            (logits,) = self.session.run(None, {self.taken: images})
            answers.append(utils.InferenceResponse([utils.Tensor(self.given, logits)]))
        return answers
"""

REASONS = {
    "configuration": "we give the part of the schema that says something of such a model",
    "index": "we also list `NAME-uint8`, and give a reason",
    "logits as JSON": "we say in `parameters` which subnet answered",
    "logits in binary": "the same",
    "classification": "the same",
    "request with an id": "the same",
    "gzip request": "the same",
    "empty list of outputs": "the same",
    "unknown model, ready": "404 tells a wrong name from a model that is not ready; Triton says 400 for both",
    "body that is not JSON": "400: it is the client's mistake; Triton says 500",
    "no inputs": "400: it is the client's mistake; Triton says 500",
    "inputs that are no list": "400: it is the client's mistake; Triton says 500",
    "shape and data disagree": "400: it is the client's mistake; Triton says 500",
    "text among numbers": "400: it is the client's mistake; Triton says 500",
    "null data": "400: it is the client's mistake; Triton says 500",
    "shape without data type": "400: it is the client's mistake; Triton says 500",
    "unknown key in the request": "refused: a misspelt key would be ignored in silence",
    "number beyond FP32": "refused: it would become infinite in silence",
    "extra slash at the end": "answered: clients send both",
    "batch larger than the engine's": "computed in parts",
    "unknown encoding": "415 is HTTP's status for it; Triton says 501",
    "timeout that is no number": "400: it is the client's mistake; Triton says 500",
    "load of an unknown model": "404: there is no such model; Triton says 500",
}


@dataclass(frozen=True)
class Case:
    """One question."""

    label: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came back, in the parts that are compared."""

    status: int
    keys: tuple[str, ...]
    values: tuple[float | str, ...]

    def told(self, other: Answer) -> str:
        """Return it for the table: the status, and what the other answer lacks."""
        own = [key for key in self.keys if key not in other.keys]
        return f"{self.status}, {', '.join(own)}" if own and self.status == other.status else str(self.status)


def cases(bundle: Bundle) -> list[Case]:
    """Return the questions, right ones first."""
    manifest = bundle.manifest
    shape = [2, *manifest.input.shape]
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    tensor: dict[str, Any] = {"name": manifest.input.name, "shape": shape, "datatype": "FP32"}
    full = tensor | {"data": images.ravel().tolist()}
    logits = {"name": manifest.output.name}
    root = f"/v2/models/{manifest.name}"

    def ask(label: str, value: Any, **headers: str) -> Case:
        return Case(label, "POST", f"{root}/infer", json.dumps(value).encode(), headers)

    def one(**changes: Any) -> dict[str, Any]:
        return {"inputs": [{key: item for key, item in (full | changes).items() if item is not ...}]}

    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": images.nbytes}}]}).encode()
    binary = {HEADER_LENGTH: str(len(head))}
    plain = json.dumps({"inputs": [full]}).encode()
    top = logits | {"parameters": {"classification": 2}}
    many = np.zeros((40, *manifest.input.shape), np.float32)
    return [
        Case("live", "GET", "/v2/health/live"),
        Case("ready", "GET", "/v2/health/ready"),
        Case("server metadata", "GET", "/v2"),
        Case("model metadata", "GET", root),
        Case("model ready", "GET", f"{root}/ready"),
        Case("model of a version ready", "GET", f"{root}/versions/1/ready"),
        Case("configuration", "GET", f"{root}/config"),
        Case("statistics", "GET", f"{root}/stats"),
        Case("index", "POST", "/v2/repository/index"),
        ask("logits as JSON", {"inputs": [full]}),
        Case("logits in binary", "POST", f"{root}/infer", head + images.tobytes(), binary),
        ask("classification", {"inputs": [full], "outputs": [top]}),
        ask("request with an id", {"id": "a7", "inputs": [full]}),
        Case("gzip request", "POST", f"{root}/infer", gzip.compress(plain), {"Content-Encoding": "gzip"}),
        ask("empty list of outputs", {"inputs": [full], "outputs": []}),
        ask("batch larger than the engine's", one(shape=list(many.shape), data=many.ravel().tolist())),
        Case("extra slash at the end", "GET", f"{root}/"),
        Case("unknown address", "GET", "/v3"),
        Case("wrong method", "GET", f"{root}/infer"),
        Case("unknown model", "POST", "/v2/models/absent/infer", plain),
        Case("unknown model, metadata", "GET", "/v2/models/absent"),
        Case("unknown model, ready", "GET", "/v2/models/absent/ready"),
        Case("unknown version", "POST", f"{root}/versions/7/infer", plain),
        Case("load of an unknown model", "POST", "/v2/repository/models/absent/load"),
        Case("empty body", "POST", f"{root}/infer"),
        Case("body that is not JSON", "POST", f"{root}/infer", b"{"),
        ask("no inputs", {}),
        ask("inputs that are no list", {"inputs": 3}),
        ask("two inputs of one name", {"inputs": [full, full]}),
        ask("wrong input name", one(name="absent")),
        ask("wrong output name", {"inputs": [full], "outputs": [{"name": "absent"}]}),
        ask("wrong data type", one(datatype="FP64")),
        ask("shape without data type", one(datatype=...)),
        ask("wrong shape", one(shape=[2, *manifest.input.shape, 1])),
        ask("shape and data disagree", one(shape=[1, *manifest.input.shape])),
        ask("no data", one(data=...)),
        ask("null data", one(data=None)),
        ask("text among numbers", one(data=["x", *full["data"][1:]])),
        ask("number beyond FP32", one(data=[1e39, *full["data"][1:]])),
        ask("unknown key in the request", {"inputs": [full], "input": 1}),
        ask("timeout that is no number", {"inputs": [full], "parameters": {"timeout": "soon"}}),
        Case("extra bytes after the tensor", "POST", f"{root}/infer", head + images.tobytes() + b"x", binary),
        Case("too few bytes", "POST", f"{root}/infer", head + images.tobytes()[:-4], binary),
        Case("header length beyond the body", "POST", f"{root}/infer", head, {HEADER_LENGTH: "999999"}),
        Case("header length that is no number", "POST", f"{root}/infer", head, {HEADER_LENGTH: "x"}),
        Case("unknown encoding", "POST", f"{root}/infer", plain, {"Content-Encoding": "br"}),
    ]


def answer_to(client: httpx.Client, case: Case) -> Answer:
    """Ask, and keep what is compared: status, keys of the answer, and the tensor."""
    headers = {"Accept-Encoding": "identity", **case.headers}
    got = client.request(case.method, case.path, content=case.body, headers=headers)
    length = got.headers.get(HEADER_LENGTH)
    try:
        plain = json.loads(got.content if length is None else got.content[: int(length)])
    except ValueError:
        return Answer(got.status_code, (), ())
    keys = sorted(plain) if isinstance(plain, dict) else [f"{len(plain)} entries"]
    values: list[float | str] = []
    for tensor in plain.get("outputs", []) if isinstance(plain, dict) and got.status_code == 200 else []:
        if "data" in tensor:
            # Scores as text are compared without their last digits.
            values += [item.split(":", 1)[1] if isinstance(item, str) else round(item, 3) for item in tensor["data"]]
        elif isinstance(tensor, dict) and length is not None:
            raw = np.frombuffer(got.content[int(length) :], "<f4")
            values += [round(float(item), 3) for item in raw]
    return Answer(got.status_code, tuple(keys), tuple(values))


def compare(triton: httpx.Client, ours: httpx.Client, bundle: Bundle) -> list[tuple[str, Answer, Answer]]:
    """Return every question with both answers."""
    return [(case.label, answer_to(triton, case), answer_to(ours, case)) for case in cases(bundle)]


def report(answers: list[tuple[str, Answer, Answer]]) -> tuple[str, list[str]]:
    """Return the page, and what is wrong with it."""
    same, rows, wrong = [], [], []
    for label, theirs, ours in answers:
        if theirs == ours:
            same.append(label)
            if label in REASONS:
                wrong.append(f"{label}: no difference any more, and a reason for one")
            continue
        if theirs.values != ours.values and 200 == theirs.status == ours.status:
            wrong.append(f"{label}: other numbers")
        if label not in REASONS:
            wrong.append(f"{label}: Triton {theirs.told(ours)}; deps-serve {ours.told(theirs)}; no reason is given")
        rows.append(f"| {label} | {theirs.told(ours)} | {ours.told(theirs)} | {REASONS.get(label, '?')} |")
    page = [
        "# Where deps-serve differs from Triton",
        "",
        "Written by `benchmarks/protocol.py`, which asks both the same: tritonserver 2.51 with its Python backend, and",
        "deps-serve, on the same ONNX file. The table gives the status, and keys of the answer that the other lacks.",
        "",
        "| question | Triton | deps-serve | why |",
        "|---|---|---|---|",
        *rows,
        "",
        f"The same from both: {', '.join(same)}.",
        "",
    ]
    return "\n".join(page), wrong


@contextlib.contextmanager
def _process(command: list[str], port: int, **settings: Any) -> Iterator[httpx.Client]:
    """Run a server until it is no longer needed, from when it says that it is ready."""
    log = settings.pop("log")
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, **settings)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=START_S) as client:
            until = time.monotonic() + START_S
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/v2/health/ready").status_code == 200:
                        break
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.wait(START_S)


def _free_port() -> int:
    with listen("127.0.0.1", 0) as bound:
        port: int = bound.getsockname()[1]
        return port


def triton_server(environment: Path, bundle: Bundle, folder: Path) -> contextlib.AbstractContextManager[httpx.Client]:
    """Start tritonserver on the bundle's first subnet, with files of its own in a folder."""
    packages = next((environment / "lib").glob("python3.*/site-packages"))
    home = packages / "pytriton" / "tritonserver"
    manifest = bundle.manifest
    onnx = bundle.locate(manifest.default_subnet.models[0].path)
    place = folder / "models" / manifest.name
    (place / "1").mkdir(parents=True)
    (place / "1" / "model.py").write_text(MODEL)
    (place / "labels.txt").write_text("\n".join(manifest.labels) + "\n")
    taken, given = manifest.input, manifest.output
    (place / "config.pbtxt").write_text(f'''
name: "{manifest.name}"
backend: "python"
max_batch_size: 8
input [ {{ name: "{taken.name}" data_type: TYPE_FP32 format: FORMAT_NCHW dims: {list(taken.shape)} }} ]
output [ {{ name: "{given.name}" data_type: TYPE_FP32 dims: [ {given.classes} ] label_filename: "labels.txt" }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
dynamic_batching {{ }}
parameters {{ key: "onnx" value {{ string_value: "{onnx}" }} }}
''')
    backend = folder / "backends" / "python"
    shutil.copytree(home / "backends" / "python", backend)
    version = packages.parent.name.removeprefix("python")
    shutil.copy(home / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    port = _free_port()
    command = [str(home / "bin" / "tritonserver"), "--model-repository", str(folder / "models")]
    command += ["--backend-directory", str(folder / "backends"), "--http-address", "127.0.0.1"]
    command += ["--http-port", str(port), "--allow-grpc=false", "--allow-metrics=false"]
    command += ["--model-control-mode=explicit", f"--load-model={manifest.name}"]
    settings = {
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(packages),
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
    }
    return _process(command, port, env={**os.environ, **settings}, log=folder / "triton.log")


def deps_server(bundle: Bundle, folder: Path) -> contextlib.AbstractContextManager[httpx.Client]:
    """Start deps-serve on the same subnet."""
    port = _free_port()
    subnet = bundle.manifest.default_subnet.name
    command = [sys.executable, "-m", "deps.serve.cli", str(bundle.folder), "--port", str(port), "--subnet", subnet]
    return _process([*command, "--threads", "1", "--max-batch", "8"], port, log=folder / "deps.log")


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--triton", type=Path, required=True, help="environment with nvidia-pytriton and onnxruntime")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there")
    args = parser.parse_args()
    bundle = read_bundle(args.bundle)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with triton_server(args.triton, bundle, folder) as triton, deps_server(bundle, folder) as ours:
            page, wrong = report(compare(triton, ours, bundle))
    if args.write:
        args.write.write_text(page)
    else:
        print(page)
    for line in wrong:
        print(f"protocol: {line}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
