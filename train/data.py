"""What a data set is: three splits, evaluation preprocessing, augmentation, and batches that depend on seeds alone.

Relies on every draw being made from (seed, epoch, image) or (seed, step), so a resumed run sees what the uninterrupted
one would have seen, and each rank its part of it. Shape suffixes: N images, C channels, H rows, W columns, V classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from deps.ground.errors import DataError
from deps.train.augmentation import Augmentation
from deps.train.draws import key_of
from deps.train.mixing import draw_mixing, mixed

SplitName: TypeAlias = Literal["train", "validation", "test"]

CALIBRATION_SEED = 937162211
CALIBRATION_BATCH = 100


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


class Job(NamedTuple):
    """An order for varied images."""

    rows_N: Tensor
    """Which images of the split."""

    augmentation: Augmentation
    key: int
    """What the draws depend on, beside the image."""

    resolution: int | None
    """Side of the images; None leaves them as they are."""


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

    def part(self, rows: slice) -> Split:
        """Return the split cut to some neighbouring images."""
        ...

    def to(self, device: torch.device) -> Split:
        """Return the split with its batches on another device."""
        ...

    def batches(self, batch_size: int, *, resolution: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images (N, C, R, R) and labels (N,), in order.

        Args:
            batch_size: images a batch; the last may hold fewer.
            resolution: side R of the images; None leaves them as they are.
        """
        ...

    def augmented(self, jobs: Iterable[Job]) -> Iterator[Tensor]:
        """Yield varied, normalised images for each job, shape (N, C, R, R); the same job gives the same images."""
        ...

    def fingerprint(self) -> str:
        """Return a hash that changes when the images do."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """A data set: what is trained on, what choices are made with, and what final numbers come from."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    augmentation: Augmentation
    """How training images are varied."""

    def __post_init__(self) -> None:
        for split in (self.train, self.validation, self.test):
            if len(split) == 0:
                raise DataError(f"the {split.name} split of {self.name} has no images; expected some of each class")
            lowest, highest = int(split.labels_N.min()), int(split.labels_N.max())
            if lowest < 0 or highest >= len(self.classes):
                raise DataError(
                    f"the {split.name} split of {self.name} has labels from {lowest} to {highest}; expected 0 to "
                    f"{len(self.classes) - 1}, one for each of its {len(self.classes)} classes; mend the files"
                )

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
        self, step: int, batch_size: int, *, seed: int, resolution: int | None = None, shard: tuple[int, int] = (0, 1)
    ) -> tuple[Tensor, Tensor]:
        """Return the augmented, normalised batch of one step; see ``training_stream``."""
        steps = range(step, step + 1)
        return next(self.training_stream(steps, batch_size, seed=seed, resolution=lambda _: resolution, shard=shard))

    def training_stream(
        self,
        steps: Iterable[int],
        batch_size: int,
        *,
        seed: int,
        resolution: Callable[[int], int | None],
        shard: tuple[int, int] = (0, 1),
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield the augmented, normalised batch of each step; later ones are prepared while earlier ones are used.

        A batch is a function of the arguments alone: its images and their order of (seed, epoch), how each is varied
        of (seed, epoch, image), how neighbours are mixed of (seed, step).

        Args:
            steps: counted from the start of training.
            batch_size: images of the whole batch, over all ranks.
            seed: of the run.
            resolution: side of the images of a step; None leaves them as they are.
            shard: (rank, ranks); a rank gets its contiguous rows of the batch, which is the same on all of them.

        Yields:
            Images (N, C, R, R), and classes (N,), or shares of classes (N, V) where the augmentation mixes images.

        Raises:
            DataError: there are fewer images than one batch holds, the batch cannot be shared out, or an image cannot
                be read.
        """
        steps_per_epoch = self.steps_per_epoch(batch_size)
        first, last = self._shard(batch_size, shard)
        pending: list[tuple[int, Tensor]] = []

        def jobs() -> Iterator[Job]:
            order_epoch, order = -1, np.empty(0, np.int64)
            for step in steps:
                epoch, position = divmod(step, steps_per_epoch)
                if epoch != order_epoch:
                    order_epoch, order = epoch, np.random.default_rng((seed, 0, epoch)).permutation(len(self.train))
                rows = torch.from_numpy(order[position * batch_size :][first:last].copy())
                pending.append((step, rows))
                yield Job(rows, self.augmentation, key_of(seed, 1, epoch), resolution(step))

        for x_NCHW in self.train.augmented(jobs()):
            step, rows_N = pending.pop(0)
            labels_N = self.train.labels_N[rows_N.to(self.train.labels_N.device)]
            if self.augmentation.mixes:
                mixing = draw_mixing(self.augmentation, batch_size, (seed, 5, step)).of(first, last)
                yield mixed(x_NCHW, labels_N, mixing, len(self.classes))
            else:
                yield x_NCHW, labels_N

    def _shard(self, batch_size: int, shard: tuple[int, int]) -> tuple[int, int]:
        rank, ranks = shard
        unit = 2 * ranks if self.augmentation.mixes and ranks > 1 else ranks
        if batch_size % unit:
            pairs = ", since neighbours are mixed in pairs" if unit != ranks else ""
            raise DataError(
                f"a batch of {batch_size} cannot be shared out over {ranks} processes; "
                f"choose a --batch-size that is a multiple of {unit}{pairs}"
            )
        share = batch_size // ranks
        return rank * share, (rank + 1) * share

    def calibration(
        self,
        resolution: int | None = None,
        *,
        images: int,
        batch_size: int = CALIBRATION_BATCH,
        seed: int = CALIBRATION_SEED,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[Tensor]:
        """Yield batches of varied training images for BatchNorm recalibration; see ``for_calibration``.

        The images are drawn at random once; the same arguments give the same batches. A last batch of one image would
        have no variance and is left out. Of several ranks each makes every so-manieth batch, by ``shard``.
        """
        rows = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.train)))[:images]
        augmentation, key = self.augmentation.for_calibration(), key_of(seed, 2, 0)
        parts = [part for part in torch.split(rows, batch_size) if len(part) > 1][shard[0] :: shard[1]]
        yield from self.train.augmented(Job(part, augmentation, key, resolution) for part in parts)

    def to(self, device: torch.device) -> ImageData:
        """Return the data set with its images on another device."""
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )
