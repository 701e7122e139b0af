"""A person's own pictures: ``train/CLASS/*`` and ``val/CLASS/*``, decoded when they are needed.

Relies on torchvision for finding the files and for augmentation, and on Pillow for decoding, as the server does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from deps.ground.errors import DataError
from deps.train.augmentation import PHOTOS
from deps.train.data import ImageData, Preprocessing, SplitName
from deps.train.folder import FolderSplit

# Mean and deviation of ImageNet's pixels, which published weights expect.
IMAGENET = Preprocessing(color="RGB", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=224)


def imagefolder(root: Path) -> ImageData:
    """Return the pictures in ``root/train`` and ``root/val``, one folder a class.

    Choices are made with every other picture of ``val``, and final numbers come from the rest; where there is a
    ``root/test``, they come from that, and all of ``val`` is for choices.

    Raises:
        DataError: a folder is missing, a class has no pictures, or the parts have different classes.
    """
    classes, train_paths, train_labels = _find(root / "train")
    val_classes, val_paths, val_labels = _find(root / "val")
    _require_same(classes, val_classes, root / "train", root / "val")

    def split(name: SplitName, paths: list[Path], labels: list[int]) -> FolderSplit:
        return FolderSplit(name=name, paths=tuple(paths), labels_N=torch.tensor(labels), preprocessing=IMAGENET)

    if (root / "test").is_dir():
        test_classes, test_paths, test_labels = _find(root / "test")
        _require_same(classes, test_classes, root / "train", root / "test")
        validation, test = split("validation", val_paths, val_labels), split("test", test_paths, test_labels)
    elif len(val_paths) < 2:
        raise DataError(f"{root / 'val'} holds one picture; expected several of each class")
    else:
        validation = split("validation", val_paths[::2], val_labels[::2])
        test = split("test", val_paths[1::2], val_labels[1::2])
    # In the order of the files, the first images of a split would all be of one class.
    mixed = np.random.default_rng(0).permutation(len(train_paths))
    train = split("train", [train_paths[i] for i in mixed], [train_labels[i] for i in mixed])
    return ImageData(
        name=root.resolve().name,
        classes=tuple(classes),
        train=train,
        validation=validation,
        test=test,
        augmentation=PHOTOS,
    )


def _find(folder: Path) -> tuple[list[str], list[Path], list[int]]:
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise DataError(f"{folder} does not exist; expected a folder with one folder of pictures for each class")
    try:
        found: Any = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: {error}; put pictures into each class, or remove the empty folder") from error
    return list(found.classes), [Path(path) for path, _ in found.samples], [label for _, label in found.samples]


def _require_same(expected: list[str], found: list[str], where: Path, other: Path) -> None:
    if expected != found:
        differ = sorted(set(expected) ^ set(found))
        raise DataError(
            f"{where} and {other} have different classes ({', '.join(differ[:5])}); expected the same folders"
        )
