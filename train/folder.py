"""Images kept as files, decoded when they are needed, by worker processes while the network trains.

Relies on a picture being a function of (file, resolution, seed), so the number of workers changes nothing but the time.
"""

from __future__ import annotations

import hashlib
import itertools
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deps.ground.errors import DataError
from deps.train.augment import erase
from deps.train.augmentation import Augmentation
from deps.train.data import Job, Preprocessing, SplitName
from deps.train.draws import ImageDraws
from deps.train.pictures import centred, open_picture, pixels_of, varied


class _Order(NamedTuple):
    """One picture to be made."""

    row: int
    side: int
    augmentation: Augmentation | None
    """None makes what evaluation sees."""

    seed: int


class _Pictures(Dataset[Tensor | DataError]):
    """Pictures by order; one that cannot be read comes back as an error, which crosses processes whole."""

    def __init__(self, paths: tuple[Path, ...], preprocessing: Preprocessing) -> None:
        self.paths, self.preprocessing = paths, preprocessing

    def __getitem__(self, index: Any) -> Tensor | DataError:
        order: _Order = index
        resize = self.preprocessing.resize_for(order.side)
        try:
            picture = open_picture(self.paths[order.row], self.preprocessing.color)
        except DataError as error:
            return error
        if order.augmentation is None:
            return pixels_of(centred(picture, order.side, resize))
        return pixels_of(varied(picture, order.augmentation, order.side, resize, order.seed))


def _stacked(pictures: list[Tensor | DataError]) -> Tensor | DataError:
    errors = [picture for picture in pictures if isinstance(picture, DataError)]
    return errors[0] if errors else torch.stack([p for p in pictures if isinstance(p, Tensor)])


GRACE_SECONDS = 30


def _patient_worker(_number: int) -> None:
    """Let the parent decide when to stop: Ctrl-C and SIGTERM reach every process of a terminal or a job.

    A worker that died at once would tear the parent out of the step that it wants to finish and save. But one that
    never died would keep a parent waiting that ends without having said goodbye.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS) and None)


@dataclass(frozen=True, kw_only=True, eq=False)
class FolderSplit:
    """Images kept as files."""

    name: SplitName
    paths: tuple[Path, ...]
    labels_N: Tensor
    """int64, indices of classes."""

    preprocessing: Preprocessing
    workers: int = 0
    """Processes that decode ahead; 0 decodes here, when asked."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.paths)

    def first(self, count: int) -> FolderSplit:
        """Return the split cut to ``count`` images, spread over the classes alike, since files are sorted by class."""
        rows = torch.arange(len(self)) if count >= len(self) else torch.arange(count) * len(self) // count
        paths = tuple(self.paths[row] for row in rows.tolist())
        return replace(self, paths=paths, labels_N=self.labels_N[rows.to(self.labels_N.device)])

    def part(self, rows: slice) -> FolderSplit:
        """Return the split cut to some neighbouring images."""
        return replace(self, paths=self.paths[rows], labels_N=self.labels_N[rows])

    def to(self, device: torch.device) -> FolderSplit:
        """Return the split with its batches on another device."""
        return replace(self, labels_N=self.labels_N.to(device), device=device)

    def batches(self, batch_size: int, *, resolution: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images (N, C, R, R) and labels (N,), in order: shorter side resized, centre cropped."""
        side = resolution or self.preprocessing.crop
        orders = [_Order(row, side, None, 0) for row in range(len(self))]
        starts = range(0, len(self), batch_size)
        pictures = self._pictures(orders[start : start + batch_size] for start in starts)
        for start, pixels_NCHW in zip(starts, pictures, strict=True):
            yield self.preprocessing.normalise(pixels_NCHW), self.labels_N[start : start + batch_size]

    def augmented(self, jobs: Iterable[Job]) -> Iterator[Tensor]:
        """Yield varied, normalised images for each job, shape (N, C, R, R)."""
        pending: list[tuple[Job, ImageDraws]] = []

        def orders() -> Iterator[list[_Order]]:
            for job in jobs:
                draws = ImageDraws(job.key, job.rows_N)
                pending.append((job, draws))
                side, rows = job.resolution or self.preprocessing.crop, job.rows_N.tolist()
                yield [_Order(row, side, job.augmentation, seed) for row, seed in zip(rows, draws.seeds(), strict=True)]

        for pixels_NCHW in self._pictures(orders()):
            job, draws = pending.pop(0)
            x_NCHW = self.preprocessing.normalise(pixels_NCHW)
            yield erase(x_NCHW, job.augmentation.erasing, draws) if job.augmentation.erasing else x_NCHW

    def fingerprint(self) -> str:
        """Return a hash of the files' names, sizes and times of change, and of the labels.

        Raises:
            DataError: a file is gone, or is a link that leads nowhere.
        """
        digest = hashlib.sha256(self.labels_N.cpu().numpy().tobytes())
        for path in self.paths:
            try:
                status = path.stat()
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error.strerror}); mend or remove it") from error
            digest.update(f"{path.parent.name}/{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _pictures(self, orders: Iterable[list[_Order]]) -> Iterator[Tensor]:
        """Yield uint8 batches (N, C, R, R) on the device, in the order of the orders.

        Raises:
            DataError: a picture cannot be read.
        """
        dataset, workers = _Pictures(self.paths, self.preprocessing), self.workers
        batches: Iterable[Any]
        first = list(itertools.islice(orders := iter(orders), 2))
        if workers == 0 or len(first) < 2:
            # Starting processes for one batch would take longer than the batch.
            batches = (_stacked([dataset[order] for order in batch]) for batch in itertools.chain(first, orders))
        else:
            batches = DataLoader(
                dataset,
                batch_sampler=_Once(itertools.chain(first, orders)),
                num_workers=workers,
                collate_fn=_stacked,
                worker_init_fn=_patient_worker,
                pin_memory=self.device.type == "cuda",
                # The loader draws a seed for its workers, which need none: not from torch's global state.
                generator=torch.Generator(),
            )
        for batch in batches:
            if isinstance(batch, DataError):
                raise batch
            yield batch.to(self.device, non_blocking=True)


class _Once:
    """Orders for a loader, which can be gone through once and have no known length."""

    def __init__(self, orders: Iterator[list[_Order]]) -> None:
        self.orders = orders

    def __iter__(self) -> Iterator[list[_Order]]:
        return self.orders
