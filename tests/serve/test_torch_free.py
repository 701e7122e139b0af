"""A device has no torch and no onnx: every module of serve must load, and serve, without them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import deps.serve

FOLDER = Path(deps.serve.__file__).resolve().parent

BLOCK = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "onnx", "scipy", "sklearn", "tensorrt", "tensorrt_rtx"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def _modules() -> list[str]:
    paths = (path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob("*.py"))
    return sorted("deps.serve" + "".join(f".{part}" for part in path.parts if part != "__init__") for path in paths)


def _run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCK + code, *words], capture_output=True, text=True, check=False)


def test_every_module_loads_without_torch():
    """One careless import would make the device's install a gigabyte larger."""
    modules = _modules()
    assert "deps.serve.engines.tensorrt" in modules
    assert len(modules) > 20
    answer = _run(f"import importlib\nfor name in {modules!r}: importlib.import_module(name)\nprint('loaded')")
    assert answer.stdout.strip() == "loaded", answer.stderr


def test_every_public_name_is_there():
    """``__all__`` and what it promises must not drift apart."""
    code = "import deps.serve\nfor name in deps.serve.__all__: getattr(deps.serve, name)\nprint('all there')"
    assert _run(code).stdout.strip() == "all there"
    assert sorted(deps.serve._HOMES) == sorted(deps.serve.__all__)


def test_bundle_is_used_without_torch(bundle_folder: Path, tmp_path: Path):
    """Not only loaded: a picture is classified."""
    from PIL import Image

    Image.new("L", (8, 8), 77).save(tmp_path / "x.png")
    code = "from deps.serve.cli import main\nsys.exit(main(sys.argv[1:]))"
    answer = _run(code, "run", str(bundle_folder), str(tmp_path / "x.png"))
    assert answer.returncode == 0, answer.stderr
    assert "digit" in answer.stdout


def test_missing_tensorrt_names_its_install_line(bundle_folder: Path):
    """A missing extra prints how to get it."""
    code = "from deps.serve.cli import main\nsys.exit(main(sys.argv[1:]))"
    answer = _run(code, "build", str(bundle_folder), "--target", "rtx")
    assert answer.returncode == 1
    assert "pip install 'deps-ofa[tensorrt-rtx]'" in answer.stderr


def test_missing_grpc_names_its_install_line(bundle_folder: Path):
    """gRPC is an extra: without it the server works, and says how to get it when it is asked for."""
    code = BLOCK.replace('"torch",', '"torch", "grpc", "google",') + "from deps.serve.cli import main\n"
    words = [str(bundle_folder), "--port", "0", "--grpc-port", "0"]
    command = [sys.executable, "-c", code + "sys.exit(main(sys.argv[1:]))", *words]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "pip install 'deps-ofa[grpc]'" in answer.stderr


def test_device_code_needs_no_newer_python_than_jetpack_has():
    """JetPack 6 ships Python 3.10: nothing newer may stand in the source."""
    import ast

    for path in FOLDER.rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
