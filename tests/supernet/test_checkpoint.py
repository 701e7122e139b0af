"""Supernets on disk: whole or not at all, checked when read, and never executed."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings

from deps.ground.errors import CheckpointError, FileError
from deps.supernet import ArchSpec, Supernet, get_space
from deps.supernet.published import published_state
from deps.supernet.torch_file import read_state_dict
from strategies import invented_spaces, lived_in

DIGITS = get_space("digits")
PUBLISHED = get_space("ofa-proxyless-w1.0")


def same(one: Supernet, two: Supernet) -> bool:
    return (
        one.space == two.space
        and list(one.tensors) == list(two.tensors)
        and all(torch.equal(one.tensors[name], tensor) for name, tensor in two.tensors.items())
    )


@given(space=invented_spaces())
@settings(max_examples=15)
def test_a_saved_supernet_is_read_back(space, tmp_path_factory):
    """A space that nobody has ever heard of travels with its weights."""
    folder = tmp_path_factory.mktemp("run")
    supernet = lived_in(space)
    supernet.provenance = {"recipe": "invented"}
    supernet.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["supernet.json", "supernet.safetensors"]
    found = Supernet.load(folder)
    assert same(found, supernet)
    assert found.provenance["recipe"] == "invented"


def test_plain_kernels_stay_plain(tmp_path):
    supernet = lived_in(DIGITS, has_matrices=False)
    supernet.save(tmp_path)
    assert same(Supernet.load(tmp_path), supernet)


def test_the_description_tells_schema_space_and_origin(tmp_path):
    Supernet.create(DIGITS).save(tmp_path)
    description = json.loads((tmp_path / "supernet.json").read_text())
    assert description["schema_version"] == 1
    assert description["space"]["name"] == "digits"
    assert {"deps", "commit", "time", "packages"} <= set(description["provenance"])


def test_the_space_may_be_said_and_is_then_checked(tmp_path):
    ten = dataclasses.replace(DIGITS, num_classes=7)
    lived_in(ten).save(tmp_path)
    assert Supernet.load(tmp_path, space=DIGITS).space.num_classes == 7
    with pytest.raises(CheckpointError, match=re.escape("holds a supernet of digits, not of cifar-mbv3")):
        Supernet.load(tmp_path, space=get_space("cifar-mbv3"))
    changed = dataclasses.replace(DIGITS, norm_eps=1e-3)
    with pytest.raises(CheckpointError, match="whose definition has changed since"):
        Supernet.load(tmp_path, space=changed)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(path: Path, **changes: object) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **changes}))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / "supernet.json").unlink(), "holds no supernet; expected supernet.json"),
        (lambda f: (f / "supernet.safetensors").unlink(), "supernet.safetensors does not exist"),
        (lambda f: _truncate(f / "supernet.safetensors"), "damaged or was replaced"),
        (lambda f: (f / "supernet.safetensors").write_bytes(b""), "damaged or was replaced"),
        (lambda f: _truncate(f / "supernet.json"), "not valid JSON"),
        (lambda f: (f / "supernet.json").write_text("[]"), "expected a JSON object"),
        (lambda f: _edit(f / "supernet.json", schema_version=2), "schema_version 2; this deps reads 1"),
        (lambda f: _edit(f / "supernet.json", weights={}), "'sha256' is missing"),
        (lambda f: _edit(f / "supernet.json", space={"name": "x"}), "not the description of a search space"),
        (lambda f: _edit(f / "supernet.json", space=None), "supernet.json is damaged"),
    ],
)
def test_a_damaged_run_says_what_is_wrong(tmp_path, damage, expected):
    Supernet.create(DIGITS).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(FileError, match=re.escape(expected)):
        Supernet.load(tmp_path)


def test_weights_of_another_space_under_a_valid_digest_are_refused(tmp_path):
    """Somebody edits the description: the digest fits, the shapes do not."""
    Supernet.create(DIGITS).save(tmp_path)
    wider = dataclasses.replace(DIGITS, in_channels=3)
    _edit(tmp_path / "supernet.json", space=wider.to_dict())
    with pytest.raises(CheckpointError, match=re.escape("'stem.0.conv.weight' has shape")):
        Supernet.load(tmp_path)


# Whole or not at all. -----------------------------------------------------------------------------------------------


SAVE_AGAIN = """
import sys
from deps.supernet import Supernet, get_space
supernet = Supernet.create(get_space("digits"), seed=1)
print("ready", flush=True)
while True:
    supernet.save(sys.argv[1])
"""


def test_a_killed_save_leaves_a_whole_supernet(tmp_path):
    """Killed in the middle of its work: the folder holds what was there before, or what came after."""
    Supernet.create(DIGITS, seed=1).save(tmp_path)
    for attempt in range(2):
        writer = subprocess.Popen([sys.executable, "-c", SAVE_AGAIN, tmp_path], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.02 + 0.013 * attempt)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        assert same(Supernet.load(tmp_path), Supernet.create(DIGITS, seed=1))
    Supernet.create(DIGITS, seed=1).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["supernet.json", "supernet.safetensors"]


SAVE_TOO_MUCH = """
import resource, signal, sys
from deps.ground.errors import FileError
from deps.supernet import Supernet, get_space
supernet = Supernet.create(get_space("digits"), seed=2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    supernet.save(sys.argv[1])
except FileError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_leaves_the_old_supernet(tmp_path):
    """A limit on the size of files stands for a full disk: writing fails in the middle."""
    Supernet.create(DIGITS, seed=1).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before["supernet.safetensors"]) > 100_000
    result = subprocess.run(
        [sys.executable, "-c", SAVE_TOO_MUCH, tmp_path], capture_output=True, text=True, timeout=100, check=True
    )
    assert "cannot write" in result.stdout
    assert "nothing was changed there" in result.stdout
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(FileError, match="permission denied"):
        Supernet.create(DIGITS).save(tmp_path / "run")


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(FileError, match="cannot write"):
        Supernet.create(DIGITS).save(tmp_path / "run")


# Published files. ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    return lived_in(PUBLISHED)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before-torch-1.6"])
@pytest.mark.parametrize("is_bare", [True, False], ids=["bare", "state_dict"])
def test_a_published_file_is_read(tmp_path, published, is_zip, is_bare):
    """Files of 2020 are plain pickles, later ones are zip archives; some hold more than the weights."""
    state = published_state(published, is_old=True)
    value = state if is_bare else {"epoch": 120, "best_acc": 76.1, "state_dict": state}
    torch.save(value, tmp_path / "ofa.pth", _use_new_zipfile_serialization=is_zip)
    found = Supernet.load(tmp_path / "ofa.pth")
    assert same(found, published)
    assert found.provenance["published"]["file"] == "ofa.pth"
    found.save(tmp_path / "run")
    assert same(Supernet.load(tmp_path / "run"), published)


class Exploit:
    """What a malicious file holds: an object whose reading runs a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "pickle"])
def test_a_file_that_would_execute_code_is_refused_and_does_not(tmp_path, is_zip):
    target = tmp_path / "executed"
    torch.save({"state_dict": Exploit(target)}, tmp_path / "evil.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match="could execute code; expected a state dict"):
        Supernet.load(tmp_path / "evil.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Exploit(target)))
    with pytest.raises((CheckpointError, FileError)):
        Supernet.load(tmp_path / "evil.pkl")
    assert not target.exists()


def test_a_whole_pickled_module_is_refused_with_the_way_out(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match=re.escape("save module.state_dict() instead of the module")):
        Supernet.load(tmp_path / "module.pth")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "pickle"])
def test_a_truncated_file_is_damaged(tmp_path, is_zip, share):
    path = tmp_path / "ofa.pth"
    torch.save({"state_dict": {"weight": torch.randn(1000)}}, path, _use_new_zipfile_serialization=is_zip)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(FileError, match=r"ofa\.pth is damaged or no torch checkpoint"):
        Supernet.load(path)


@pytest.mark.parametrize(
    ("content", "error", "expected"),
    [
        (b"", FileError, "is empty; copy or download it again"),
        (b"<!DOCTYPE html><html>not found</html>", FileError, "is damaged or no torch checkpoint"),
        (b"\x80\x02}q\x00.", FileError, "is damaged or no torch checkpoint"),
        (bytes(1000), FileError, "is damaged or no torch checkpoint"),
    ],
)
def test_other_files_are_no_checkpoints(tmp_path, content, error, expected):
    path = tmp_path / "ofa.pth"
    path.write_bytes(content)
    with pytest.raises(error, match=re.escape(expected)):
        Supernet.load(path)


def test_an_archive_that_is_not_torchs_is_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / "ofa.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(FileError, match="is damaged or no torch checkpoint"):
        Supernet.load(tmp_path / "ofa.pth")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], "holds a list; expected tensors by name"),
        ({}, "holds an empty mapping"),
        ({"state_dict": 3}, "holds a int; expected tensors by name"),
        ({"weight": [1.0]}, "holds a list at 'weight'; expected a tensor under a name"),
        ({3: torch.zeros(1)}, "at 3; expected a tensor under a name"),
        ({"weight": torch.zeros(2, 2).to_sparse()}, "sparse or quantized tensor at 'weight'"),
    ],
)
def test_a_file_without_named_tensors_says_what_it_holds(tmp_path, value, expected):
    torch.save(value, tmp_path / "ofa.pth")
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        Supernet.load(tmp_path / "ofa.pth")


def test_the_error_names_the_file_and_the_key(tmp_path, published):
    state = published_state(published)
    del state["first_conv.bn.bias"]
    torch.save(state, tmp_path / "ofa.pth")
    with pytest.raises(CheckpointError, match=r"ofa\.pth: .*lack 'first_conv\.bn\.bias'"):
        Supernet.load(tmp_path / "ofa.pth", space=PUBLISHED)


def test_a_missing_place_is_named(tmp_path):
    with pytest.raises(FileError, match=r"nowhere does not exist; expected a folder that holds supernet\.json"):
        Supernet.load(tmp_path / "nowhere")
    with pytest.raises(FileError, match="is not a file; expected a checkpoint"):
        read_state_dict(tmp_path)
    with pytest.raises(FileError, match="holds no supernet"):
        Supernet.load(tmp_path)


def test_an_imported_subnet_computes_what_it_computed(tmp_path, published):
    torch.save({"state_dict": published_state(published, is_old=True)}, tmp_path / "ofa.pth")
    arch = ArchSpec.smallest(PUBLISHED)
    x = torch.randn(1, 3, arch.resolution, arch.resolution)
    assert torch.equal(Supernet.load(tmp_path / "ofa.pth").subnet(arch)(x), published(x, arch))
