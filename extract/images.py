"""The images that exported files are calibrated and judged with, decoded once for all subnets of a resolution.

Relies on the first images of a split being as good as any, which data sets see to by their order.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from deps.train.data import ImageData

PHOTO = 224 * 224
"""Pixels of a usual photo; images are counted by what they cost, and small ones cost little."""

BATCH = (4 * PHOTO, 1, 250)
CALIBRATION = (64 * PHOTO, 64, 500)
JUDGED = (100 * PHOTO, 50, 5000)
COMPARED = (32 * PHOTO, 12, 5000)
RANKING = (8 * PHOTO, 8, 64)
"""Pixels, and the least and the most images: of a batch; from which int8 takes its ranges; of each split on which every
precision is judged; of those, how many torch answers as well; on which layers are ranked for a repair."""


LARGE_FAMILY = 5
"""Subnets from which on the pixels to judge them are shared, so that ten take at most twice the time of five."""


def count_of(bounds: tuple[int, int, int], resolution: int, *, members: int = 1) -> int:
    """Return how many images of a resolution a number of pixels allows, for each of several subnets."""
    pixels, least, most = bounds
    share = max(1.0, members / LARGE_FAMILY)
    return min(max(round(pixels / share / resolution**2), least), most)


class Images:
    """The images that subnets of one resolution are calibrated and judged with, decoded once and kept."""

    def __init__(
        self, data: ImageData, resolution: int, *, seed: int, members: int = 1, judged: int | None = None
    ) -> None:
        """Read the images.

        Args:
            data: where they come from.
            resolution: of the subnets.
            seed: of the draw of calibration images.
            members: how many subnets they are for.
            judged: most images of a split that precisions are judged on; by their size when None.
        """
        batch, limit = count_of(BATCH, resolution), judged or count_of(JUDGED, resolution, members=members)
        self.ranking = count_of(RANKING, resolution)
        self.compared = count_of(COMPARED, resolution, members=members)
        drawn = data.calibration(
            resolution, images=count_of(CALIBRATION, resolution), batch_size=max(batch, 2), seed=seed
        )
        self.calibration: list[NDArray[Any]] = [x_NCHW.numpy() for x_NCHW in drawn]
        self.validation: list[tuple[Tensor, Tensor]] = list(
            data.validation.first(limit).batches(batch, resolution=resolution)
        )
        self.test: list[tuple[Tensor, Tensor]] = list(data.test.first(limit).batches(batch, resolution=resolution))
