"""The handwritten digits that ship inside scikit-learn: real images, no download."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from deps.train.augmentation import DIGITS
from deps.train.data import ImageData, Preprocessing, SplitName
from deps.train.memory import MemorySplit


def digits() -> ImageData:
    """Return the 1,797 digits of scikit-learn, 8 x 8 grey pixels: 1,197 to train on, 300 to choose with, 300 to report.

    The parts are drawn once, stratified by class, and do not depend on the seed of a run: no run ever trains on an
    image that another reports on. Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch: Any = load_digits()
    # Grey levels 0..16 become ordinary 8-bit pixels, so that a PNG of a digit is the same input.
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    rest, test = train_test_split(np.arange(len(labels)), test_size=300, stratify=labels, random_state=0)
    train, validation = train_test_split(rest, test_size=300, stratify=labels[rest], random_state=0)

    scaled_pixels = pixels[train] / 255
    preprocessing = Preprocessing(
        color="L", mean=(float(scaled_pixels.mean()),), std=(float(scaled_pixels.std()),), resize=None, crop=8
    )

    def part(name: SplitName, rows: Any) -> MemorySplit:
        return MemorySplit(
            name=name,
            pixels_NCHW=torch.from_numpy(pixels[rows]),
            labels_N=torch.from_numpy(labels[rows]),
            preprocessing=preprocessing,
        )

    return ImageData(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        train=part("train", train),
        validation=part("validation", validation),
        test=part("test", test),
        augmentation=DIGITS,
    )
