"""Pictures are the same whoever decodes them, and one that breaks stops a run without costing it anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deps.ground.console import Story
from deps.ground.errors import DataError
from deps.train.augmentation import Augmentation
from deps.train.datasets import load_data, load_recipe_data
from deps.train.datasets.imagefolder import IMAGENET
from deps.train.loop import TrainConfig, train
from deps.train.recipe import Recipe, override
from deps.train.recipes import get_recipe


def recipe_for(root: Path, **changes: object) -> Recipe:
    settings = {"data": str(root), "space": "cifar-mbv3-narrow", "resolutions": (24, 32), "epochs": 2, "batch_size": 8}
    settings |= {"depths": (2,), "expands": (3,), "kernels": (3,), "random_subnets": 0, "evaluation_subnets": 0}
    settings |= {"calibration_images": 16, "threads": 1, "lr_warmup": 0.0, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return override(get_recipe("imagefolder"), {**settings, **changes})


@pytest.mark.parametrize("mixup", [0.0, 0.3])
def test_worker_processes_change_nothing_but_the_time(root: Path, mixup: float):
    """So a run may go on with another number of them, in the middle of an epoch."""
    augmentation = Augmentation(crop_scale=0.2, flip=True, hue=0.1, policy="randaugment", erasing=0.5, mixup=mixup)
    results = []
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for workers in (0, 2):
        data = replace(load_data("imagefolder", root=root, workers=workers), augmentation=augmentation)
        stream = data.training_stream(range(2, 6), 8, seed=0, resolution=lambda step: 24 + 8 * (step % 2))
        results.append([*stream, *data.validation.batches(3, resolution=24)])
    assert torch.equal(torch.get_rng_state(), before)
    for (x, labels), (same_x, same_labels) in zip(*results, strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(labels, same_labels)


def test_a_picture_that_breaks_in_the_middle_is_named_and_costs_nothing(root: Path, tmp_path: Path):
    """Its header was good when it was checked; mended, the run goes on to what it would have been."""
    recipe, quiet = recipe_for(root), Story(quiet=True)
    train(TrainConfig(recipe=recipe, out=tmp_path / "whole", workers=0), quiet)
    order = np.random.default_rng((recipe.seed, 0, 0)).permutation(32)
    data = load_recipe_data(recipe)
    victim = data.train.paths[order[20]]  # type: ignore[attr-defined]
    good = victim.read_bytes()
    victim.write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match=f"{victim.name} cannot be read as a picture .*mend or remove"):
        train(TrainConfig(recipe=recipe, out=tmp_path / "run", workers=1), quiet)
    saved = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.suffix == ".safetensors"]
    assert saved == ["step-00000002.safetensors"]
    victim.write_bytes(good)
    train(TrainConfig(recipe=recipe, out=tmp_path / "run", resume=True, workers=0), quiet)
    ends = [(tmp_path / name / "supernet.safetensors").read_bytes() for name in ("run", "whole")]
    assert ends[0] == ends[1]


def test_statistics_come_from_the_training_pictures_and_are_kept(root: Path, tmp_path: Path):
    """A resumed run must normalise as before, and need not look at a million pictures again."""
    recipe = recipe_for(root, mean=(), std=())
    found = load_recipe_data(recipe, folder=tmp_path).preprocessing
    pixels = np.concatenate([np.asarray(Image.open(path)) / 255 for path in sorted(root.glob("train/*/*"))])
    np.testing.assert_allclose(found.mean, pixels.mean((0, 1)), atol=0.01)
    np.testing.assert_allclose(found.std, pixels.std((0, 1)), atol=0.02)
    kept = (tmp_path / "pictures.json").read_text()
    assert load_recipe_data(recipe, folder=tmp_path).preprocessing == found
    assert (tmp_path / "pictures.json").read_text() == kept
    (tmp_path / "pictures.json").write_text("{")
    assert load_recipe_data(recipe, folder=tmp_path).preprocessing == found
    assert load_data("imagefolder", root=root, mean=IMAGENET.mean, std=IMAGENET.std).preprocessing == IMAGENET


def test_a_file_that_is_no_picture_is_found_before_the_first_epoch(root: Path):
    """With the number of its like."""
    for index in (3, 5):
        (root / "train" / "dark" / f"{index:02d}.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"dark/03\.jpg cannot be read as a picture .*and 1 more"):
        load_data("imagefolder", root=root)


def test_an_unreadable_picture_is_named(root: Path):
    """A link that leads nowhere, since whoever runs tests in a container may read everything."""
    path = root / "train" / "light" / "00.jpg"
    path.unlink()
    path.symlink_to(root / "gone.jpg")
    with pytest.raises(DataError, match=r"00\.jpg"):
        load_data("imagefolder", root=root)
