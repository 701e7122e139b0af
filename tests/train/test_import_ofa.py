"""Importing: a published file becomes a run folder, whole or not at all."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from deps.ground.errors import CheckpointError, FileError
from deps.supernet import Supernet, get_space
from deps.supernet.published import published_state
from deps.train.import_ofa import import_ofa
from deps.train.run import open_run
from strategies import lived_in

SPACE = dataclasses.replace(get_space("ofa-proxyless-w1.3"), num_classes=12)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "ofa_proxyless.pth"
    torch.save({"state_dict": published_state(lived_in(SPACE), is_old=True)}, path)
    return path


@pytest.mark.parametrize("space", [None, get_space("ofa-proxyless-w1.3")], ids=["recognised", "given"])
def test_an_imported_file_is_a_run(file, tmp_path, space):
    report = import_ofa(file, space=space, out=tmp_path / "ofa")
    run = open_run(tmp_path / "ofa")
    supernet = run.supernet()
    assert run.recipe is None
    assert supernet.space == SPACE
    assert all(torch.equal(tensor, supernet.tensors[name]) for name, tensor in lived_in(SPACE).tensors.items())
    assert supernet.provenance["published"]["file"] == "ofa_proxyless.pth"
    assert report.to_dict() == {
        "file": str(file),
        "out": str(tmp_path / "ofa"),
        "space": "ofa-proxyless-w1.3",
        "num_classes": 12,
        "has_matrices": True,
        "num_tensors": 446,
        # 7,956,882 with a thousand classes.
        "num_parameters": 7_956_882 - 988 * 1665,
    }
    assert "supernet of ofa-proxyless-w1.3: 12 classes, 446 tensors" in report.to_text()


def test_an_existing_folder_is_kept_unless_it_may_be_overwritten(file, tmp_path):
    (tmp_path / "ofa").mkdir()
    (tmp_path / "ofa" / "mine.txt").write_text("keep me")
    with pytest.raises(FileError, match="exists already"):
        import_ofa(file, out=tmp_path / "ofa")
    assert (tmp_path / "ofa" / "mine.txt").read_text() == "keep me"
    import_ofa(file, out=tmp_path / "ofa", overwrite=True)
    assert Supernet.load(tmp_path / "ofa").space == SPACE


def test_a_file_of_another_space_leaves_nothing_behind(file, tmp_path):
    with pytest.raises(CheckpointError, match=re.escape("these are weights of ofa-proxyless-w1.3")):
        import_ofa(file, space=get_space("ofa-resnet50"), out=tmp_path / "ofa")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_imported(tmp_path):
    with pytest.raises(FileError, match="is a folder; a run is used as it is"):
        import_ofa(tmp_path, out=tmp_path / "ofa")
