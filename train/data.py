"""What a data set is: three splits, evaluation preprocessing, augmentation, and batches that depend on seeds alone.

Relies on every draw being made from (seed, epoch) or (seed, step), so a resumed run sees what the uninterrupted one
would have seen. Shape suffixes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deps.ground.errors import DataError

SplitName: TypeAlias = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """What turns a picture into the network's input, in training's evaluation and in serving alike."""

    color: Literal["L", "RGB"]
    """Pillow's name of the colour mode."""

    mean: tuple[float, ...]
    """Per channel, of pixels scaled to 0..1."""

    std: tuple[float, ...]
    """Per channel, of pixels scaled to 0..1."""

    resize: int | None
    """Shorter side before the crop, in pixels; None resizes to the input's size exactly."""

    crop: int
    """Side of the centre crop, in pixels."""

    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def resize_for(self, resolution: int) -> int | None:
        """Return the shorter side before a crop of ``resolution`` pixels: the margin around it keeps its share."""
        return None if self.resize is None else math.ceil(self.resize * resolution / self.crop)

    def normalise(self, pixels_NCHW: Tensor) -> Tensor:
        """Return float32 images with the data set's mean and standard deviation taken out, from pixels in 0..255."""
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, device=pixels_NCHW.device).view(shape)
        std = torch.tensor(self.std, device=pixels_NCHW.device).view(shape)
        return (pixels_NCHW.float() / 255 - mean) / std


class Split(Protocol):
    """Images of one purpose, in a fixed order, wherever they are kept."""

    @property
    def name(self) -> SplitName:
        """What the images are for."""
        ...

    @property
    def labels_N(self) -> Tensor:
        """int64, indices of classes."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """What turns a picture into the network's input."""
        ...

    def __len__(self) -> int: ...

    def first(self, count: int) -> Split:
        """Return the split cut to its first images."""
        ...

    def to(self, device: torch.device) -> Split:
        """Return the split with its batches on another device."""
        ...

    def batches(
        self, batch_size: int, *, resolution: int | None = None, limit: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images (N, C, R, R) and labels (N,), in order.

        Args:
            batch_size: images a batch; the last may hold fewer.
            resolution: side R of the images; None leaves them as they are.
            limit: how many of the first images to use; None means all.
        """
        ...

    def augmented(self, rows_N: Tensor, draws: torch.Generator, resolution: int | None = None) -> Tensor:
        """Return varied, normalised images of some rows, shape (N, C, R, R); the same draws give the same images."""
        ...

    def fingerprint(self) -> str:
        """Return a hash that changes when the images do."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class MemorySplit:
    """Images kept as one tensor."""

    name: SplitName
    pixels_NCHW: Tensor
    """uint8."""

    labels_N: Tensor
    """int64, indices of classes."""

    preprocessing: Preprocessing
    augment: Callable[[Tensor, torch.Generator], Tensor]
    """Turns float images in 0..255, shape (N, C, H, W), into varied ones of the same shape."""

    def __post_init__(self) -> None:
        images, labels = len(self.pixels_NCHW), len(self.labels_N)
        if images != labels or labels == 0:
            raise DataError(f"the {self.name} split has {images} images and {labels} labels; expected equally many")

    def __len__(self) -> int:
        return len(self.labels_N)

    def first(self, count: int) -> MemorySplit:
        """Return the split cut to its first images."""
        return replace(self, pixels_NCHW=self.pixels_NCHW[:count], labels_N=self.labels_N[:count])

    def to(self, device: torch.device) -> MemorySplit:
        """Return the split with its images on another device."""
        return replace(self, pixels_NCHW=self.pixels_NCHW.to(device), labels_N=self.labels_N.to(device))

    def batches(
        self, batch_size: int, *, resolution: int | None = None, limit: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images (N, C, R, R) and labels (N,), in order."""
        count = len(self) if limit is None else min(limit, len(self))
        for start in range(0, count, batch_size):
            rows = slice(start, min(start + batch_size, count))
            yield self._scaled(self.pixels_NCHW[rows], resolution), self.labels_N[rows]

    def augmented(self, rows_N: Tensor, draws: torch.Generator, resolution: int | None = None) -> Tensor:
        """Return varied, normalised images of some rows, shape (N, C, R, R)."""
        return self._scaled(self.augment(self.pixels_NCHW[rows_N].float(), draws), resolution)

    def fingerprint(self) -> str:
        """Return a hash of images and labels."""
        digest = hashlib.sha256(self.pixels_NCHW.cpu().contiguous().numpy().tobytes())
        digest.update(self.labels_N.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _scaled(self, pixels_NCHW: Tensor, resolution: int | None) -> Tensor:
        x_NCHW = self.preprocessing.normalise(pixels_NCHW)
        if resolution is None or resolution == x_NCHW.shape[-1]:
            return x_NCHW
        return F.interpolate(x_NCHW, size=(resolution, resolution), mode="bilinear", antialias=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """A data set: what is trained on, what choices are made with, and what final numbers come from."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    @property
    def preprocessing(self) -> Preprocessing:
        """What turns a picture into the network's input."""
        return self.train.preprocessing

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of full batches; what is left over waits for another epoch's order.

        Raises:
            DataError: there are fewer images than one batch holds.
        """
        steps = len(self.train) // batch_size
        if steps == 0:
            raise DataError(
                f"{self.name} has {len(self.train)} training images, fewer than one batch of {batch_size}; "
                "lower --batch-size"
            )
        return steps

    def training_batch(
        self, step: int, batch_size: int, *, seed: int, resolution: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the augmented, normalised batch of one step, counted from the start of training."""
        epoch, position = divmod(step, self.steps_per_epoch(batch_size))
        order = torch.from_numpy(np.random.default_rng((seed, 0, epoch)).permutation(len(self.train)))
        rows = order[position * batch_size : (position + 1) * batch_size]
        return self.train.augmented(rows, generator(seed, 1, step), resolution), self.train.labels_N[rows]

    def calibration(
        self, resolution: int | None = None, *, images: int, batch_size: int = 100, seed: int = 937162211
    ) -> list[Tensor]:
        """Return batches of augmented training images for BatchNorm recalibration.

        The images are drawn at random once; the same arguments give the same batches. A last batch of one image would
        have no variance and is left out.
        """
        rows = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.train)))[:images]
        draws = generator(seed, 2, 0)
        parts = [part for part in torch.split(rows, batch_size) if len(part) > 1]
        return [self.train.augmented(part, draws, resolution) for part in parts]

    def to(self, device: torch.device) -> ImageData:
        """Return the data set with its images on another device."""
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )


def generator(*seed: int) -> torch.Generator:
    """Return a generator on the CPU whose state is a hash of all the numbers given."""
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))
