"""CIFAR from files whose checksums are the published ones; nothing is fetched unless that is asked for."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deps.ground.console import Story
from deps.ground.errors import DataError
from deps.train.datasets import load_data
from deps.train.loop import TrainConfig, train
from deps.train.recipe import override
from deps.train.recipes import get_recipe
from deps.train.run import open_run

SHARED = Path(os.environ.get("DEPS_TEST_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
FILES = SHARED / "cifar-10-batches-py"
needs_files = pytest.mark.skipif(not FILES.is_dir(), reason=f"{FILES} is not here")


def test_missing_files_are_said_and_not_fetched(tmp_path: Path):
    """With both ways out."""
    for name in ("cifar10", "cifar100"):
        with pytest.raises(DataError, match=r"does not exist; expected .* correct --data, or fetch it with --download"):
            load_data(name, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_an_error_and_no_stack_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """A proxy where nobody listens stands for the missing network."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(DataError, match=r"could not be fetched from .* check the network, or put cifar-10-python"):
        load_data("cifar10", root=tmp_path / "new", download=True, story=Story())
    assert "fetching cifar10 from http" in capsys.readouterr().err


@needs_files
def test_a_damaged_file_is_named_with_its_checksum(tmp_path: Path):
    """One byte of 30 MB."""
    folder = tmp_path / FILES.name
    folder.mkdir()
    for file in FILES.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    damaged = folder / "data_batch_1"
    damaged.unlink()
    shutil.copyfile(FILES / "data_batch_1", damaged)
    with damaged.open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"!")
    with pytest.raises(DataError, match=r"data_batch_1 is damaged: its MD5 is \w+, not the published c99cafc"):
        load_data("cifar10", root=tmp_path)


@pytest.fixture(scope="module")
def data():
    return load_data("cifar10", root=SHARED, validation_images=5000)


@needs_files
def test_choices_are_made_with_training_images_that_are_held_out(data):
    """The 10,000 test images are for final numbers alone."""
    assert [len(split) for split in (data.train, data.validation, data.test)] == [45_000, 5_000, 10_000]
    assert torch.bincount(data.validation.labels_N).tolist() == [500] * 10
    assert data.classes[:3] == ("airplane", "automobile", "bird")
    x = torch.cat([x for x, _ in data.train.first(5000).batches(5000)])
    assert x.mean((0, 2, 3)).abs().max() < 0.02
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.02


@needs_files
def test_an_epoch_of_real_images_trains_evaluates_and_is_opened_again(tmp_path: Path):
    """The recipe as it is, on fewer images and fewer choices; the stored space is the restricted one."""
    changes = {"data": str(SHARED), "epochs": 1, "train_images": 96, "batch_size": 16, "validation_images": 5000}
    changes |= {"depths": (2,), "expands": (3,), "kernels": (3,), "warmup_fraction": 0.0, "calibration_images": 32}
    changes |= {"evaluation_subnets": 0, "random_subnets": 0, "mixup": 0.2, "erasing": 0.2, "threads": 1}
    changes |= {"evaluation_images": 60}
    recipe = override(get_recipe("cifar10-narrow"), changes)
    assert recipe.augment == replace(get_recipe("cifar10").augment, mixup=0.2, erasing=0.2)
    report = train(TrainConfig(recipe=recipe, out=tmp_path / "run"), Story(quiet=True))
    assert report.images == {"train": 96, "validation": 60, "test": 60}
    run = open_run(tmp_path / "run")
    supernet = run.supernet()
    assert supernet.space.name == "cifar-mbv3-narrow-k3-e3-d2"
    assert supernet.provenance["images"]["classes"] == list(run.data().classes)
