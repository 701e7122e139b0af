"""Images in memory: three splits, evaluation preprocessing, augmentation, and batches that depend on seeds alone.

Relies on every draw being made from (seed, epoch) or (seed, step), so a resumed run sees what the uninterrupted one
would have seen. Shape suffixes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deps.ground.errors import DataError


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Images of one purpose, in memory, in a fixed order."""

    name: Literal["train", "validation", "test"]
    pixels_NCHW: Tensor
    """uint8."""

    labels_N: Tensor
    """int64, indices of classes."""

    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.labels_N)

    def first(self, count: int) -> Split:
        """Return the split cut to its first images."""
        return replace(self, pixels_NCHW=self.pixels_NCHW[:count], labels_N=self.labels_N[:count])

    def to(self, device: torch.device) -> Split:
        """Return the split with its images on another device."""
        return replace(self, pixels_NCHW=self.pixels_NCHW.to(device), labels_N=self.labels_N.to(device))

    def normalise(self, pixels_NCHW: Tensor) -> Tensor:
        """Return float32 images with the data set's mean and standard deviation taken out."""
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.preprocessing.mean, device=pixels_NCHW.device).view(shape)
        std = torch.tensor(self.preprocessing.std, device=pixels_NCHW.device).view(shape)
        return (pixels_NCHW.float() / 255 - mean) / std

    def batches(
        self, batch_size: int, *, resolution: int | None = None, limit: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images (N, C, R, R) and labels (N,), in order.

        Args:
            batch_size: images a batch; the last may hold fewer.
            resolution: side R to which the images are scaled; None leaves them as they are.
            limit: how many of the first images to use; None means all.
        """
        count = len(self) if limit is None else min(limit, len(self))
        for start in range(0, count, batch_size):
            rows = slice(start, min(start + batch_size, count))
            yield scaled(self.normalise(self.pixels_NCHW[rows]), resolution), self.labels_N[rows]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """A data set: what is trained on, what choices are made with, and what final numbers come from."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    augment: Callable[[Tensor, torch.Generator], Tensor]
    """Turns float images in 0..255, shape (N, C, H, W), into varied ones of the same shape."""

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
        pixels = self.augment(self.train.pixels_NCHW[rows].float(), generator(seed, 1, step))
        return scaled(self.train.normalise(pixels), resolution), self.train.labels_N[rows]

    def calibration(
        self, resolution: int | None = None, *, images: int, batch_size: int = 100, seed: int = 937162211
    ) -> list[Tensor]:
        """Return batches of augmented training images for BatchNorm recalibration.

        The images are drawn at random once; the same arguments give the same batches. A last batch of one image would
        have no variance and is left out.
        """
        rows = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.train)))[:images]
        draws = generator(seed, 2, 0)
        return [
            scaled(self.train.normalise(self.augment(self.train.pixels_NCHW[part].float(), draws)), resolution)
            for part in torch.split(rows, batch_size)
            if len(part) > 1
        ]

    def to(self, device: torch.device) -> ImageData:
        """Return the data set with its images on another device."""
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )


def generator(*seed: int) -> torch.Generator:
    """Return a generator on the CPU whose state is a hash of all the numbers given."""
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def scaled(x_NCHW: Tensor, resolution: int | None) -> Tensor:
    """Return the images at another resolution, antialiased; unchanged where it is theirs already."""
    if resolution is None or resolution == x_NCHW.shape[-1]:
        return x_NCHW
    return F.interpolate(x_NCHW, size=(resolution, resolution), mode="bilinear", antialias=True)


def random_affine(x_NCHW: Tensor, draws: torch.Generator, *, degrees: float, shift: float, scale: float) -> Tensor:
    """Return each image rotated, shifted and scaled at random on its own; what comes in from outside is 0.

    torchvision's transforms draw once for a whole batch, or want one image at a time; this draws per image in one call.

    Args:
        x_NCHW: float images.
        draws: source of randomness.
        degrees: largest rotation.
        shift: largest shift, in pixels.
        scale: largest change of size, as a share.
    """
    count, size = x_NCHW.shape[0], x_NCHW.shape[-1]
    angle, dx, dy, zoom = (torch.rand(4, count, generator=draws) * 2 - 1).unbind()
    angle, zoom = angle * (degrees * torch.pi / 180), 1 + zoom * scale
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    step = 2 * shift / size
    theta_N23 = torch.stack([torch.stack([cos, -sin, dx * step], 1), torch.stack([sin, cos, dy * step], 1)], 1)
    grid = F.affine_grid(theta_N23.to(x_NCHW.device), list(x_NCHW.shape), align_corners=False)
    return F.grid_sample(x_NCHW, grid, align_corners=False)


def split_of(
    name: Literal["train", "validation", "test"], pixels: Tensor, labels: Tensor, preprocessing: Preprocessing
) -> Split:
    """Return a split after checking it.

    Raises:
        DataError: images and labels do not belong together, or there are none.
    """
    if len(pixels) != len(labels) or len(labels) == 0:
        raise DataError(f"the {name} split has {len(pixels)} images and {len(labels)} labels; expected equally many")
    return Split(name=name, pixels_NCHW=pixels, labels_N=labels, preprocessing=preprocessing)


def load_digits() -> ImageData:
    """Return the 1,797 digits of scikit-learn, 8 x 8 grey pixels: 1,197 to train on, 300 to choose with, 300 to report.

    The parts are drawn once, stratified by class, and do not depend on the seed of a run: no run ever trains on an
    image that another reports on. Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    bunch: Any = load()
    # Grey levels 0..16 become ordinary 8-bit pixels, so that a PNG of a digit is the same input.
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    rest, test = train_test_split(np.arange(len(labels)), test_size=300, stratify=labels, random_state=0)
    train, validation = train_test_split(rest, test_size=300, stratify=labels[rest], random_state=0)

    scaled_pixels = pixels[train] / 255
    preprocessing = Preprocessing(
        color="L", mean=(float(scaled_pixels.mean()),), std=(float(scaled_pixels.std()),), resize=None, crop=8
    )

    def part(name: Literal["train", "validation", "test"], rows: Any) -> Split:
        return split_of(name, torch.from_numpy(pixels[rows]), torch.from_numpy(labels[rows]), preprocessing)

    return ImageData(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        train=part("train", train),
        validation=part("validation", validation),
        test=part("test", test),
        augment=lambda x, draws: random_affine(x, draws, degrees=12, shift=0.8, scale=0.1),
    )


_DATASETS: dict[str, Callable[[], ImageData]] = {"digits": load_digits}


def load_data(name: str, *, train_images: int = 0) -> ImageData:
    """Return the data set called ``name``, with at most ``train_images`` images to train on where that is not 0.

    Raises:
        DataError: there is none; the message lists those there are.
    """
    if name not in _DATASETS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(_DATASETS)}")
    data = _DATASETS[name]()
    return replace(data, train=data.train.first(train_images)) if train_images else data
