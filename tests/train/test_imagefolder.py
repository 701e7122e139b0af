"""A person's own folders of pictures: found, split, decoded as the server decodes them, and checked before use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deps.ground.errors import DataError
from deps.serve.images import image_from_bytes
from deps.serve.manifest import InputSpec
from deps.train.data import ImageData
from deps.train.datasets import load_data

SHARED = Path(os.environ.get("DEPS_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
IMAGENETTE = SHARED / "imagenette-224-subset"


def write_pictures(folder: Path, count: int, size: tuple[int, int] = (60, 40)) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(str(folder.name)))
    for index in range(count):
        pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes; five pictures each to train on, four to choose and report with."""
    for name in ("cat", "dog"):
        write_pictures(tmp_path / "own" / "train" / name, 5)
        write_pictures(tmp_path / "own" / "val" / name, 4)
    return tmp_path / "own"


def images(data: ImageData) -> dict[str, int]:
    return {split.name: len(split) for split in (data.train, data.validation, data.test)}


def test_val_is_shared_between_choices_and_final_numbers(root: Path):
    """Accuracy that a choice was made by is too high; the rest of val tells the truth."""
    data = load_data("imagefolder", root=root)
    assert data.classes == ("cat", "dog")
    assert images(data) == {"train": 10, "validation": 4, "test": 4}
    for split in (data.validation, data.test):
        assert torch.bincount(split.labels_N).tolist() == [2, 2]


def test_a_folder_of_test_pictures_is_used_when_there_is_one(root: Path):
    """Then all of val is for choices."""
    write_pictures(root / "test" / "cat", 1)
    write_pictures(root / "test" / "dog", 2)
    assert images(load_data("imagefolder", root=root)) == {"train": 10, "validation": 8, "test": 3}


def test_training_is_told_to_be_elastic_in_resolution(root: Path):
    """One data set, any resolution; the last batch may be smaller."""
    data = load_data("imagefolder", root=root)
    for resolution in (32, 48):
        shapes = [tuple(x.shape) for x, _ in data.validation.batches(3, resolution=resolution)]
        assert shapes == [(3, 3, resolution, resolution), (1, 3, resolution, resolution)]
        assert data.training_batch(1, 4, seed=0, resolution=resolution)[0].shape == (4, 3, resolution, resolution)


def test_augmentation_depends_on_its_draws_alone_and_leaves_torchs_state(root: Path):
    """A resumed run sees the same crops, whatever was drawn in between."""
    data = load_data("imagefolder", root=root)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, _ = data.training_batch(0, 4, seed=1, resolution=32)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(first, data.training_batch(0, 4, seed=1, resolution=32)[0])
    assert not torch.equal(first, data.training_batch(0, 4, seed=2, resolution=32)[0])


def test_the_server_sees_a_picture_as_evaluation_does(root: Path):
    """Otherwise the accuracy that was measured is not the accuracy that is served."""
    data = load_data("imagefolder", root=root)
    resolution = 48
    resize = data.preprocessing.resize_for(resolution)
    assert resize == 55
    spec = InputSpec(
        shape=(3, resolution, resolution),
        color="RGB",
        mean=data.preprocessing.mean,
        std=data.preprocessing.std,
        resize=resize,
        crop=resolution,
    )
    path = sorted((root / "val" / "cat").iterdir())[0]
    expected = next(data.validation.batches(1, resolution=resolution))[0][0].numpy()
    np.testing.assert_allclose(image_from_bytes(path.read_bytes(), spec), expected, atol=1e-5)


def test_fewer_images_are_of_all_classes(root: Path):
    """Files are sorted by class: the first ones alone would be of one."""
    data = load_data("imagefolder", root=root, train_images=6)
    assert len(data.train) == 6
    assert set(data.train.labels_N.tolist()) == {0, 1}
    assert set(data.validation.first(2).labels_N.tolist()) == {0, 1}


def test_the_fingerprint_changes_with_the_files(root: Path):
    """Measurements are remembered by it."""
    before = load_data("imagefolder", root=root).train.fingerprint()
    assert load_data("imagefolder", root=root).train.fingerprint() == before
    write_pictures(root / "train" / "extra", 0)
    (root / "train" / "extra").rmdir()
    Image.new("RGB", (9, 9)).save(root / "train" / "cat" / "0.png")
    assert load_data("imagefolder", root=root).train.fingerprint() != before


@pytest.mark.parametrize("damage", ["missing", "no train", "empty class", "other classes", "no folder given"])
def test_unfit_folders_are_named_before_anything_is_computed(root: Path, damage: str):
    """Never as a stack trace at hour six."""
    expected = {
        "missing": "nowhere does not exist",
        "no train": "train does not exist",
        "empty class": "bird",
        "other classes": r"different classes \(bird\)",
        "no folder given": "--data FOLDER",
    }[damage]
    where: Path | str = root
    if damage == "missing":
        where = root / "nowhere"
    elif damage == "no train":
        (root / "train").rename(root / "elsewhere")
    elif damage == "empty class":
        (root / "train" / "bird").mkdir()
    elif damage == "other classes":
        write_pictures(root / "val" / "bird", 1)
    else:
        where = ""
    with pytest.raises(DataError, match=expected):
        load_data("imagefolder", root=where)


def test_a_corrupt_picture_is_named(root: Path):
    """One broken file among a million must be findable."""
    broken = root / "val" / "cat" / "0.png"
    broken.write_bytes(broken.read_bytes()[:200])
    data = load_data("imagefolder", root=root)
    with pytest.raises(DataError, match=r"cat/0\.png cannot be read"):
        list(data.validation.batches(4))


@pytest.mark.skipif(not IMAGENETTE.is_dir(), reason=f"{IMAGENETTE} is not here")
def test_real_pictures_load():
    """500 real JPEGs, some of them grey."""
    data = load_data("imagefolder", root=IMAGENETTE)
    assert len(data.classes) == 10
    assert images(data) == {"train": 1800, "validation": 250, "test": 250}
    x, labels = next(data.test.first(16).batches(16, resolution=160))
    assert x.shape == (16, 3, 160, 160)
    assert len(set(labels.tolist())) > 5
    assert float(x.abs().max()) < 3
