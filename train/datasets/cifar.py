"""CIFAR-10 and CIFAR-100: 32 x 32 colour pictures, kept in memory.

Relies on torchvision for reading the files, after their checksums were found to be the published ones.
Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deps.ground.errors import DataError
from deps.train.augmentation import SMALL
from deps.train.data import ImageData, Preprocessing, SplitName
from deps.train.datasets.parts import hold_out
from deps.train.datasets.source import Source
from deps.train.memory import MemorySplit

STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""Mean and standard deviation of the training images, as they are usually given."""


def cifar10(source: Source) -> ImageData:
    """Return CIFAR-10; see ``_cifar``."""
    from torchvision.datasets import CIFAR10

    return _cifar("cifar10", CIFAR10, source)


def cifar100(source: Source) -> ImageData:
    """Return CIFAR-100; see ``_cifar``."""
    from torchvision.datasets import CIFAR100

    return _cifar("cifar100", CIFAR100, source)


def _cifar(name: str, reader: Any, source: Source) -> ImageData:
    """Return a data set of which a stratified part of the training images is held out for choices.

    Raises:
        DataError: a file is missing or altered, or cannot be fetched.
    """
    _provide(name, reader, source.root, source)
    parts = {train: reader(str(source.root), train=train, download=False) for train in (True, False)}
    labels = {train: np.asarray(part.targets, np.int64) for train, part in parts.items()}
    kept, held = hold_out(labels[True], source.validation_images, seed=0, name=name)
    mean, std = (source.mean, source.std) if source.mean else STATISTICS[name]
    preprocessing = Preprocessing(color="RGB", mean=mean, std=std, resize=None, crop=32)

    def split(split_name: SplitName, is_train: bool, rows: Any) -> MemorySplit:
        pixels = np.ascontiguousarray(parts[is_train].data[rows].transpose(0, 3, 1, 2))
        return MemorySplit(
            name=split_name,
            pixels_NCHW=torch.from_numpy(pixels),
            labels_N=torch.from_numpy(labels[is_train][rows]),
            preprocessing=preprocessing,
        )

    return ImageData(
        name=name,
        classes=tuple(parts[True].classes),
        train=split("train", True, kept),
        validation=split("validation", True, held),
        test=split("test", False, slice(None)),
        augmentation=SMALL,
    )


def _provide(name: str, reader: Any, root: Path, source: Source) -> None:
    """Make sure that the files are there and whole, fetching them if that is allowed.

    Raises:
        DataError: they are not.
    """
    problem = _problem(reader, root)
    if problem is None:
        return
    if not source.download:
        raise DataError(f"{problem}; expected {name} in {root}; correct --data, or fetch it with --download")
    source.story.say(f"fetching {name} from {reader.url} into {root}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        reader(str(root), train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} could not be fetched from {reader.url} ({error}); check the network, or put "
            f"{reader.filename} into {root} by hand"
        ) from error
    if (problem := _problem(reader, root)) is not None:
        raise DataError(f"{problem} after it was fetched; remove {root / reader.base_folder} and try again")


def _problem(reader: Any, root: Path) -> str | None:
    """Return what is wrong with the files; None when they are whole."""
    folder = root / reader.base_folder
    if not folder.is_dir():
        return f"{folder} does not exist"
    for file, expected in [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]:
        path = folder / file
        try:
            # MD5 is what the authors publish; it finds damage, which is all that is asked of it.
            found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        except FileNotFoundError:
            return f"{path} does not exist"
        except OSError as error:
            return f"{path} cannot be read ({(error.strerror or str(error)).lower()})"
        if found != expected:
            return f"{path} is damaged: its MD5 is {found}, not the published {expected}"
    return None
