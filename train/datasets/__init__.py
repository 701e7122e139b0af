"""Data sets by name, one function each."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from deps.ground.console import Story
from deps.ground.errors import DataError
from deps.train.data import ImageData
from deps.train.datasets.cifar import cifar10, cifar100
from deps.train.datasets.digits import digits
from deps.train.datasets.imagefolder import IMAGENET, imagefolder, imagenet, imagenet100
from deps.train.datasets.source import Source
from deps.train.recipe import Recipe

__all__ = ["IMAGENET", "dataset_names", "default_workers", "load_data", "load_recipe_data"]

FINDINGS = "pictures.json"

_INSTALLED: dict[str, Callable[[], ImageData]] = {"digits": digits}
_IN_FOLDERS: dict[str, Callable[[Source], ImageData]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet100": imagenet100,
    "imagenet": imagenet,
    "imagefolder": imagefolder,
}


def dataset_names() -> tuple[str, ...]:
    """Return the names of all data sets."""
    return (*_INSTALLED, *_IN_FOLDERS)


def load_data(
    name: str, *, root: Path | str = "", train_images: int = 0, evaluation_images: int = 0, **settings: Any
) -> ImageData:
    """Return the data set called ``name``.

    Args:
        name: one of ``dataset_names()``.
        root: where its files are, for those that are not part of an installed package.
        train_images: how many images to train on; 0 means all.
        evaluation_images: how many images of each other split to keep; 0 means all.
        settings: fields of ``Source``.

    Raises:
        DataError: there is no such data set, or its files are missing or unfit.
    """
    if name in _INSTALLED:
        if root:
            raise DataError(f"{name} is part of an installed package and has no folder; leave out --data")
        data = _INSTALLED[name]()
    elif name in _IN_FOLDERS:
        if not root:
            raise DataError(f"{name} needs the folder of its images; give it with --data FOLDER")
        data = _IN_FOLDERS[name](Source(root=Path(root), **settings))
    else:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(dataset_names())}")
    if evaluation_images:
        validation, test = data.validation.first(evaluation_images), data.test.first(evaluation_images)
        data = replace(data, validation=validation, test=test)
    return replace(data, train=data.train.first(train_images)) if train_images else data


def load_recipe_data(
    recipe: Recipe,
    *,
    folder: Path | None = None,
    story: Story | None = None,
    download: bool = False,
    workers: int | None = None,
) -> ImageData:
    """Return the images of a recipe, varied as it says.

    Args:
        recipe: names the data set and how its images are used.
        folder: of the run, where findings about pictures are kept; None keeps them nowhere.
        story: tells of long work.
        download: whether missing files may be fetched.
        workers: processes that decode pictures; None chooses.

    Raises:
        DataError: the files are missing or unfit, or a setting means nothing to this data set.
    """
    idle = {"digits": ("mean", "classes", "validation_images"), "cifar10": ("classes",), "cifar100": ("classes",)}
    for setting in idle.get(recipe.dataset, ()):
        if getattr(recipe, setting):
            raise DataError(f"{recipe.dataset} has no use for --{setting.replace('_', '-')}; leave it out")
    data = load_data(
        recipe.dataset,
        root=recipe.data,
        train_images=recipe.train_images,
        evaluation_images=recipe.evaluation_images,
        validation_images=recipe.validation_images,
        classes=Path(recipe.classes) if recipe.classes else None,
        mean=recipe.mean,
        std=recipe.std,
        download=download,
        workers=default_workers() if workers is None else workers,
        memory=folder / FINDINGS if folder is not None else None,
        story=story if story is not None else Story(quiet=True),
    )
    return replace(data, augmentation=recipe.augment)


def default_workers() -> int:
    """Return how many processes decode pictures: the cores of this process's share of the machine but one, at most 12.

    Several processes of one training on a machine, as torchrun starts them, share its cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(12, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))
