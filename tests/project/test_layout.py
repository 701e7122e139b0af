"""The tree keeps its promises: packages, guards, arrows, names that others rely on."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("ground", "supernet", "train", "profile", "extract", "serve")

ALLOWED = {
    "ground": set(),
    "supernet": {"ground"},
    "serve": {"ground"},
    "profile": {"ground", "supernet", "serve"},
    "train": {"ground", "supernet", "profile"},
    "extract": {"ground", "supernet", "profile", "serve", "train"},
}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The modules of deps that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_the_standard_library_keeps_its_profile_module():
    """A package called profile at the root would break cProfile, torch and python -m pytest."""
    assert not (ROOT / "profile" / "__init__.py").exists()
    code = "import cProfile, profile; profile.Profile; cProfile.Profile"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_pyright_is_told_of_every_folder():
    """It follows links that are named and none that it meets: with the folder of links alone it checks nothing."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pyright"]
    assert sorted(config["include"]) == sorted(["benchmarks", *(f"typings/deps/{folder}" for folder in FOLDERS)])
    assert all((ROOT / link).is_dir() for link in config["include"])


def test_every_folder_with_code_is_packaged():
    """A subpackage that is not listed is missing from the wheel, and only users notice."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    with_code = {f"deps.{p.parent.relative_to(ROOT).as_posix().replace('/', '.')}" for f in FOLDERS for p in sources(f)}
    assert with_code == set(config["packages"])
    assert config["package-dir"] == {name: name.removeprefix("deps.").replace(".", "/") for name in with_code}


def test_type_checkers_see_every_folder_through_a_relative_link():
    """mypy and pyright know the code as deps.* only through these links."""
    links = {path.name: path.readlink().as_posix() for path in (ROOT / "typings" / "deps").iterdir()}
    assert links == {folder: f"../../{folder}" for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_go_one_way(folder: str):
    """The ground knows nobody, serve knows only the ground: so a device stays small."""
    for path in sources(folder):
        for module in imported(path):
            parts = module.split(".")
            if parts[0] == "deps" and len(parts) > 1 and parts[1] != folder:
                assert parts[1] in ALLOWED[folder], f"{path.relative_to(ROOT)} imports {module}"


def test_extract_reads_of_train_only_what_a_run_left():
    """Extract opens runs and their images; how a supernet was trained is no business of its."""
    for path in sources("extract"):
        used = {".".join(m.split(".")[:3]) for m in imported(path) if m.startswith("deps.train")}
        assert used <= {"deps.train", "deps.train.run", "deps.train.data", "deps.train.alone"}, path


def test_the_names_others_rely_on_exist():
    """DESIGN names these; a rename breaks notebooks and scripts of people we do not know."""
    from deps.profile.flops import count
    from deps.profile.latency import LatencyTable
    from deps.supernet import ArchSpec, SearchSpace, Supernet, get_space, recalibrate_bn

    space = get_space("ofa-mbv3-w1.0")
    assert isinstance(space, SearchSpace)
    arch = ArchSpec.from_ofa(space, ks=[7] * 20, e=[6] * 20, d=[4] * 5, w=None, resolution=224)
    assert count(space, arch).flops == 566_170_656
    assert callable(LatencyTable.load)
    assert callable(LatencyTable.predict)
    assert callable(Supernet.load)
    assert callable(recalibrate_bn)


@pytest.mark.parametrize("command", ["train", "profile", "extract", "serve"])
def test_help_of_every_command_ends_with_an_example(command: str):
    """Help is the first page that anybody reads."""
    code = f"import sys; from deps.{command}.cli import main; sys.exit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert f"deps-{command}" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].strip().startswith(("example", f"deps-{command}", "  deps-"))


@pytest.mark.parametrize("command", ["train", "profile", "extract", "serve"])
def test_wrong_usage_exits_with_two(command: str):
    """Scripts tell wrong usage (2) from work that failed (1)."""
    code = f"import sys; from deps.{command}.cli import main; sys.exit(main(['--no-such-flag']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_no_file_names_a_registry_host_or_carries_a_lock_with_addresses():
    """Installing must work from any registry, so versions are pinned without saying where they come from."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert lines
    assert all("==" in line and "://" not in line and "@" not in line for line in lines)


def test_weights_are_never_unpickled_without_weights_only():
    """A pickle can run code; published checkpoints come from strangers."""
    for folder in FOLDERS:
        for path in sources(folder):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                    flags = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert flags.get("weights_only") == "True", path
                if isinstance(node, ast.Call):
                    assert ast.unparse(node.func) not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), path
