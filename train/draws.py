"""Random numbers that each image draws for itself, whatever batch, process or rank it is in.

Relies on SplitMix64, a hash of a counter: a draw is a function of (key, image, how many were drawn before), so
nothing has to be saved for a resumed run, and half a batch sees what the whole one would have seen.
Source: Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def key_of(*seed: int) -> int:
    """Return a hash of all the numbers given, below 2**64."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])


def generator(*seed: int) -> torch.Generator:
    """Return a generator on the CPU whose state is a hash of all the numbers given."""
    return torch.Generator().manual_seed(key_of(*seed))


class ImageDraws:
    """One stream of random numbers for each image of a batch."""

    def __init__(self, key: int, images_N: Tensor) -> None:
        """Begin the streams of some images.

        Args:
            key: what the draws depend on beside the image, such as a hash of seed and epoch.
            images_N: index of each image in its split.
        """
        images = images_N.cpu().numpy().astype(np.uint64)
        self._states = _mixed(np.uint64(key) + np.uint64(GOLDEN) * (images + np.uint64(1)))
        self._drawn = 0

    def __len__(self) -> int:
        return len(self._states)

    def uniform(self, count: int) -> Tensor:
        """Return ``count`` numbers of [0, 1) for each image, float32, shape (count, N), on the CPU."""
        # 24 bits are what a float32 below 1 holds exactly.
        return torch.from_numpy((self._bits(count) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24))

    def seeds(self) -> list[int]:
        """Return one number below 2**62 for each image, to seed a generator of its own with."""
        return [int(bits) for bits in self._bits(1)[0] >> np.uint64(2)]

    def _bits(self, count: int) -> NDArray[np.uint64]:
        offsets = [(GOLDEN * (self._drawn + i)) & MASK for i in range(1, count + 1)]
        self._drawn += count
        return _mixed(self._states[None, :] + np.array(offsets, np.uint64)[:, None])


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # Arithmetic of arrays of 64 bits wraps around, which is what is wanted here.
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
