"""Which images are held out: stratified by class, drawn once, the same for every run and seed.

Relies on the draws not depending on a run's seed, so no run ever trains on an image that another reports on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deps.ground.errors import DataError

Rows = NDArray[np.int64]


def hold_out(labels: Rows, images: int, *, seed: int, name: str) -> tuple[Rows, Rows]:
    """Return the rows to keep and those to hold out, each ascending; every class gives its share.

    Args:
        labels: class of each image, shape (N,).
        images: how many to hold out; 0 means a tenth, and at least one of each class.
        seed: of the draw.
        name: what the images are called in an error.

    Raises:
        DataError: a class would have no image left, or none to give.
    """
    counts = np.bincount(labels)
    classes = int((counts > 0).sum())
    wanted = images or max(len(labels) // 10, classes)
    if wanted < classes or counts[counts > 0].min() < 2 or wanted > len(labels) - classes:
        raise DataError(
            f"{wanted} of the {len(labels)} training images of {name} cannot be held out with its {classes} classes, "
            f"the smallest of which has {counts[counts > 0].min()}; expected at least one of each class to train on "
            "and one to choose with; add images, or change --validation-images"
        )
    rng = np.random.default_rng(seed)
    # The largest remainders get what rounding down leaves over; no class gives all it has, and each gives one.
    shares = counts * (wanted / len(labels))
    given = np.where(counts > 0, np.clip(np.floor(shares).astype(np.int64), 1, np.maximum(counts - 1, 0)), 0)
    order = np.argsort(np.floor(shares) - shares, kind="stable")
    while (left := wanted - int(given.sum())) != 0:
        for c in order:
            if left > 0 and given[c] < counts[c] - 1:
                given[c], left = given[c] + 1, left - 1
            elif left < 0 and given[c] > 1:
                given[c], left = given[c] - 1, left + 1
    held = [rng.permutation(np.flatnonzero(labels == c))[: given[c]] for c in range(len(counts))]
    is_held = np.zeros(len(labels), np.bool_)
    is_held[np.concatenate(held)] = True
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)
