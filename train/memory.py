"""Images kept as one tensor, on the GPU when there is one, and varied there, a whole batch at once.

Relies on their being few and small enough to fit. Shape suffixes as in ``data.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from deps.ground.errors import DataError
from deps.train.augment import erase, vary
from deps.train.data import Job, Preprocessing, SplitName
from deps.train.draws import ImageDraws
from deps.train.pictures import varied


@dataclass(frozen=True, kw_only=True, eq=False)
class MemorySplit:
    """Images kept as one tensor."""

    name: SplitName
    pixels_NCHW: Tensor
    """uint8."""

    labels_N: Tensor
    """int64, indices of classes."""

    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        images, labels = len(self.pixels_NCHW), len(self.labels_N)
        if images != labels or labels == 0:
            raise DataError(f"the {self.name} split has {images} images and {labels} labels; expected equally many")

    def __len__(self) -> int:
        return len(self.labels_N)

    def first(self, count: int) -> MemorySplit:
        """Return the split cut to its first images."""
        return replace(self, pixels_NCHW=self.pixels_NCHW[:count], labels_N=self.labels_N[:count])

    def part(self, rows: slice) -> MemorySplit:
        """Return the split cut to some neighbouring images."""
        return replace(self, pixels_NCHW=self.pixels_NCHW[rows], labels_N=self.labels_N[rows])

    def to(self, device: torch.device) -> MemorySplit:
        """Return the split with its images on another device."""
        return replace(self, pixels_NCHW=self.pixels_NCHW.to(device), labels_N=self.labels_N.to(device))

    def batches(self, batch_size: int, *, resolution: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images (N, C, R, R) and labels (N,), in order."""
        for start in range(0, len(self), batch_size):
            rows = slice(start, start + batch_size)
            yield self._scaled(self.pixels_NCHW[rows], resolution), self.labels_N[rows]

    def augmented(self, jobs: Iterable[Job]) -> Iterator[Tensor]:
        """Yield varied, normalised images for each job, shape (N, C, R, R)."""
        for job in jobs:
            draws = ImageDraws(job.key, job.rows_N)
            pixels_NCHW = self.pixels_NCHW[job.rows_N.to(self.pixels_NCHW.device)]
            if job.augmentation.needs_pictures:
                # What torchvision does to one picture at a time, it does on the processor.
                side = self.pixels_NCHW.shape[-1]
                images = [
                    varied(image, job.augmentation, side, None, seed)
                    for image, seed in zip(pixels_NCHW.cpu(), draws.seeds(), strict=True)
                ]
                pixels_NCHW = torch.stack(images).to(self.pixels_NCHW.device)
            else:
                pixels_NCHW = vary(pixels_NCHW, job.augmentation, draws)
            x_NCHW = self._scaled(pixels_NCHW, job.resolution)
            yield erase(x_NCHW, job.augmentation.erasing, draws) if job.augmentation.erasing else x_NCHW

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
