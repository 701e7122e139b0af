"""A person's own pictures: ``train/CLASS/*`` and ``val/CLASS/*``, decoded when they are needed.

Relies on torchvision for finding the files and for augmentation, and on Pillow for decoding, as the server does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from deps.ground.errors import DataError
from deps.train.data import ImageData, Preprocessing, SplitName

# Mean and deviation of ImageNet's pixels, which published weights expect.
IMAGENET = Preprocessing(color="RGB", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=224)


@dataclass(frozen=True, kw_only=True, eq=False)
class FolderSplit:
    """Images kept as files."""

    name: SplitName
    paths: tuple[Path, ...]
    labels_N: Tensor
    """int64, indices of classes."""

    preprocessing: Preprocessing
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.paths)

    def first(self, count: int) -> FolderSplit:
        """Return the split cut to ``count`` images, spread over the classes alike, since files are sorted by class."""
        rows = torch.arange(len(self)) if count >= len(self) else torch.arange(count) * len(self) // count
        paths = tuple(self.paths[row] for row in rows.tolist())
        return replace(self, paths=paths, labels_N=self.labels_N[rows.to(self.labels_N.device)])

    def to(self, device: torch.device) -> FolderSplit:
        """Return the split with its batches on another device."""
        return replace(self, labels_N=self.labels_N.to(device), device=device)

    def batches(
        self, batch_size: int, *, resolution: int | None = None, limit: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images (N, C, R, R) and labels (N,), in order: shorter side resized, centre cropped."""
        from torchvision.transforms.v2 import functional as transforms

        chosen = self if limit is None else self.first(limit)
        crop = resolution or self.preprocessing.crop
        resize = self.preprocessing.resize_for(crop)
        for start in range(0, len(chosen), batch_size):
            paths = chosen.paths[start : start + batch_size]
            images = []
            for path in paths:
                image = self._open(path)
                sides = [crop, crop] if resize is None else [resize]
                images.append(transforms.center_crop(transforms.resize(image, sides), [crop, crop]))
            yield self._normalised(images), chosen.labels_N[start : start + batch_size]

    def augmented(self, rows_N: Tensor, draws: torch.Generator, resolution: int | None = None) -> Tensor:
        """Return random resized crops, flipped and jittered in colour, normalised, shape (N, C, R, R)."""
        from torchvision.transforms import v2

        side = resolution or self.preprocessing.crop
        vary = v2.Compose(
            [
                v2.RandomResizedCrop(side, scale=(0.08, 1.0)),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=32 / 255, saturation=0.5),
            ]
        )
        seeds = torch.randint(1 << 62, (len(rows_N),), generator=draws).tolist()
        images = []
        # torchvision draws from torch's global state: it is set for each image, and left as it was afterwards.
        with torch.random.fork_rng(devices=[]):
            for row, seed in zip(rows_N.tolist(), seeds, strict=True):
                torch.manual_seed(seed)
                images.append(vary(self._open(self.paths[row])))
        return self._normalised(images)

    def fingerprint(self) -> str:
        """Return a hash of the files' names, sizes and times of change, and of the labels."""
        digest = hashlib.sha256(self.labels_N.cpu().numpy().tobytes())
        for path in self.paths:
            status = path.stat()
            digest.update(f"{path.parent.name}/{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _open(self, path: Path) -> Image.Image:
        try:
            with Image.open(path) as image:
                return image.convert(self.preprocessing.color)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be read as a picture ({error}); mend or remove it") from error

    def _normalised(self, images: list[Any]) -> Tensor:
        from torchvision.transforms.v2 import functional as transforms

        pixels_NCHW = torch.stack([transforms.pil_to_tensor(image) for image in images])
        return self.preprocessing.normalise(pixels_NCHW.to(self.device))


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
    return ImageData(name=root.resolve().name, classes=tuple(classes), train=train, validation=validation, test=test)


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
