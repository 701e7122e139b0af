"""Build the wheel and try it as a device would: a fresh environment, the base install, no torch.

A bundle is made here with the workstation's environment; the fresh one serves it and must answer alike.
Run by ``make wheel``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ground", "supernet", "train", "profile", "extract", "serve")


def call(command: Sequence[str | Path], **options: Any) -> str:
    """Run a command outside the checkout, so that only what is installed is imported; return its stdout."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(words)}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def build_wheel(folder: Path) -> Path:
    """Build the wheel into ``folder`` and check that it holds every module and nothing else."""
    call([sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT])
    (wheel,) = folder.glob("deps_ofa-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("deps/")}
    tracked = call(["git", "-C", str(ROOT), "ls-files", *FOLDERS]).splitlines()
    expected = {f"deps/{name}" for name in tracked}
    if packed != expected:
        sys.exit(f"the wheel lacks {sorted(expected - packed)} and has besides {sorted(packed - expected)}")
    return wheel


def make_bundle(folder: Path) -> Path:
    """Train for one epoch and extract for the CPU, with the workstation's environment."""
    commands = Path(sys.executable).parent
    run, bundle = folder / "run", folder / "bundle"
    call([commands / "deps-train", "digits", "--epochs", "2", "--train-images", "256", "--quiet", "--out", run])
    extract = [commands / "deps-extract", "--supernet", run, "--flops", "300M", "--target", "cpu", "--out", bundle]
    call([*extract, "--quiet"], cwd=folder)
    return bundle


def digit_png(folder: Path) -> Path:
    """Write one real digit as a picture."""
    code = (
        "import sys, numpy as np; from PIL import Image; from sklearn.datasets import load_digits\n"
        "Image.fromarray(np.round(load_digits().images[7] * 255 / 16).astype('uint8')).save(sys.argv[1])"
    )
    call([sys.executable, "-c", code, folder / "digit.png"])
    return folder / "digit.png"


def serve_and_ask(commands: Path, bundle: Path, folder: Path) -> dict[str, Any]:
    """Start the server of the fresh environment on a free port, ask it once, stop it."""
    log = folder / "server.log"
    with log.open("w") as stderr:
        command = [commands / "deps-serve", bundle, "--port", "0"]
        server = subprocess.Popen([str(word) for word in command], stderr=stderr, cwd=folder)
        try:
            deadline = time.monotonic() + 60
            while not (found := re.search(r"http://[\w.]+:\d+", log.read_text())):
                if server.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"the server did not start:\n{log.read_text()}")
                time.sleep(0.05)
            name = json.loads((bundle / "manifest.json").read_text())["name"]
            body = {"inputs": [{"name": "input", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.5] * 64}]}
            request = urllib.request.Request(f"{found[0]}/v2/models/{name}/infer", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=30) as response:
                answer: dict[str, Any] = json.load(response)
        finally:
            server.terminate()
            server.wait(30)
    if server.returncode != 0:
        sys.exit(f"the server ended with {server.returncode} after SIGTERM:\n{log.read_text()}")
    return answer


def main() -> None:
    """Build, install, try."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder / "dist")
        bundle, picture = make_bundle(folder), digit_png(folder)

        venv.create(folder / "device", with_pip=True)
        commands = folder / "device" / "bin"
        call([commands / "pip", "--disable-pip-version-check", "install", "-q", "-c", ROOT / "constraints.txt", wheel])
        has_torch = "import importlib.util as u; print(any(map(u.find_spec, ('torch', 'onnx', 'scipy'))))"
        if call([commands / "python", "-c", has_torch], cwd=folder).strip() != "False":
            sys.exit("the base install brings torch, onnx or scipy; a device must stay small")
        size = sum(path.stat().st_size for path in (folder / "device").rglob("*") if path.is_file())

        call([commands / "deps-serve", "--help"], cwd=folder)
        top = json.loads(call([commands / "deps-serve", "run", bundle, picture, "--json"], cwd=folder))
        answer = serve_and_ask(commands, bundle, folder)
        if len(answer["outputs"][0]["data"]) != 10:
            sys.exit(f"the server answered {answer}; expected ten logits")
        print(f"{wheel.name}: the base install ({size / 1e6:.0f} MB, no torch) serves a bundle")
        print(f"deps-serve run says {json.dumps(top)[:200]}")


if __name__ == "__main__":
    main()
