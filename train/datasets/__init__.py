"""Data sets by name, one module each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deps.ground.errors import DataError
from deps.train.data import ImageData
from deps.train.datasets.digits import digits
from deps.train.datasets.imagefolder import imagefolder

__all__ = ["dataset_names", "load_data"]

_INSTALLED = {"digits": digits}
_IN_FOLDERS = {"imagefolder": imagefolder}


def dataset_names() -> tuple[str, ...]:
    """Return the names of all data sets."""
    return (*_INSTALLED, *_IN_FOLDERS)


def load_data(name: str, *, root: Path | str = "", train_images: int = 0) -> ImageData:
    """Return the data set called ``name``.

    Args:
        name: one of ``dataset_names()``.
        root: where its files are, for those that are not part of an installed package.
        train_images: how many images to train on; 0 means all.

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
        data = _IN_FOLDERS[name](Path(root))
    else:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(dataset_names())}")
    return replace(data, train=data.train.first(train_images)) if train_images else data
