"""What is done to training images, as settings; evaluation never does any of it.

Relies on nothing that computes, so a recipe can hold it. Carried out by ``augment.py`` on whole batches in memory, by
``pictures.py`` on one picture at a time, and by ``mixing.py`` on the images of a batch among each other.
"""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass, fields, replace
from typing import Literal

from deps.ground.errors import RecipeError

PolicyName = Literal["none", "autoaugment-imagenet", "autoaugment-cifar10", "randaugment"]
POLICIES: tuple[str, ...] = typing.get_args(PolicyName)


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """How training images are varied, in the order of the fields; the default leaves them as they are."""

    crop_scale: float = 0.0
    """Smallest share of the picture's area that a random resized crop takes; 0 means no such crop."""

    crop_padding: int = 0
    """Pixels of reflected padding around the picture before a random crop of its own size; 0 means none."""

    flip: bool = False
    """Whether every other picture, at random, is mirrored left to right."""

    rotate: float = 0.0
    """Largest rotation, in degrees."""

    shift: float = 0.0
    """Largest shift, in pixels."""

    zoom: float = 0.0
    """Largest change of size, as a share."""

    brightness: float = 0.0
    """Largest change of brightness, as a share."""

    contrast: float = 0.0
    """Largest change of contrast, as a share."""

    saturation: float = 0.0
    """Largest change of saturation, as a share."""

    hue: float = 0.0
    """Largest change of hue, as a share of the colour wheel, at most 0.5."""

    policy: PolicyName = "none"
    """Automatic augmentation: none, autoaugment-imagenet, autoaugment-cifar10 or randaugment."""

    randaugment_operations: int = 2
    """Operations that RandAugment applies to a picture."""

    randaugment_magnitude: int = 9
    """Strength of RandAugment's operations, 0 to 30."""

    erasing: float = 0.0
    """Share of the pictures of which a random rectangle is erased (random erasing)."""

    mixup: float = 0.0
    """Parameter of mixup's Beta distribution; neighbours in a batch are blended, and so are labels; 0 means none."""

    cutmix: float = 0.0
    """Parameter of CutMix's Beta distribution; neighbours exchange a rectangle; with mixup, each batch does either."""

    def __post_init__(self) -> None:
        def require(holds: bool, field: str, expected: str) -> None:
            if not holds:
                raise RecipeError(f"{field} is {getattr(self, field)!r}; expected {expected}")

        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, (bool, str)):
                require(math.isfinite(value) and value >= 0, field.name, "0 or more")
        for name in ("crop_scale", "erasing"):
            require(getattr(self, name) <= 1, name, "a share between 0 and 1")
        for name in ("zoom", "brightness", "contrast", "saturation"):
            require(getattr(self, name) < 1, name, "a share below 1")
        require(self.rotate <= 180, "rotate", "at most 180 degrees")
        require(self.hue <= 0.5, "hue", "at most 0.5")
        require(self.policy in POLICIES, "policy", f"one of {', '.join(POLICIES)}")
        require(self.randaugment_operations >= 1, "randaugment_operations", "at least 1")
        require(self.randaugment_magnitude <= 30, "randaugment_magnitude", "at most 30")
        require(not (self.crop_scale and self.crop_padding), "crop_padding", "0 beside crop_scale: one kind of crop")

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed, so that labels become shares of classes."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def needs_pictures(self) -> bool:
        """Whether something is asked for that is done to one picture at a time."""
        return bool(self.crop_scale or self.policy != "none" or self.jitters)

    @property
    def jitters(self) -> bool:
        """Whether colours are changed."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)

    def for_calibration(self) -> Augmentation:
        """Return what BatchNorm is recalibrated with: crops, flips and colours, as once-for-all does, but no more.

        Erased, mixed and strongly altered pictures would move the statistics away from those of real pictures.
        """
        return replace(self, policy="none", erasing=0.0, mixup=0.0, cutmix=0.0)


DIGITS = Augmentation(rotate=12, shift=0.8, zoom=0.1)
"""Handwriting leans and strays a little."""

SMALL = Augmentation(crop_padding=4, flip=True)
"""What is usual for 32-pixel images, with the padding reflected."""

PHOTOS = Augmentation(crop_scale=0.08, flip=True, brightness=32 / 255, saturation=0.5)
"""What once-for-all trains its subnets with, and recalibrates them with."""
