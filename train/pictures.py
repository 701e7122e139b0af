"""One picture at a time: decoding, evaluation's resize and crop, and the changes that torchvision makes to pictures.

Relies on Pillow for decoding, as the server does, and on torchvision drawing from torch's global state, which is
seeded for each picture and left as it was.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from deps.ground.errors import DataError
from deps.train.augmentation import Augmentation


def open_picture(path: Path, color: str) -> Image.Image:
    """Return a decoded picture.

    Raises:
        DataError: the file is missing, unreadable, no picture, or cut short.
    """
    try:
        with Image.open(path) as image:
            return image.convert(color)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read as a picture ({error}); mend or remove it") from error


def pixels_of(image: Any) -> Tensor:
    """Return a picture as uint8, shape (C, H, W)."""
    from torchvision.transforms.v2 import functional as transforms

    pixels: Tensor = image if isinstance(image, Tensor) else transforms.pil_to_tensor(image)
    return pixels


def centred(image: Any, side: int, resize: int | None) -> Any:
    """Return what evaluation sees: the shorter side resized, the centre cropped.

    Args:
        image: a Pillow picture, or a uint8 tensor (C, H, W).
        side: of the crop.
        resize: the shorter side before the crop; None resizes to the crop's size exactly.
    """
    from torchvision.transforms.v2 import functional as transforms

    sides = [side, side] if resize is None else [resize]
    return transforms.center_crop(transforms.resize(image, sides), [side, side])


def varied(image: Any, augmentation: Augmentation, side: int, resize: int | None, seed: int) -> Any:
    """Return a picture of ``side`` pixels changed at random; the same seed gives the same picture.

    Args:
        image: a Pillow picture, or a uint8 tensor (C, H, W).
        augmentation: what to do; erasing and mixing come later, on whole batches.
        side: of the result.
        resize: the shorter side before evaluation's crop, for recipes without a random resized crop.
        seed: of all draws.
    """
    if not augmentation.crop_scale:
        image = centred(image, side, resize)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _transforms(augmentation, side)(image)


@functools.lru_cache(maxsize=64)
def _transforms(augmentation: Augmentation, side: int) -> Any:
    from torchvision.transforms import v2

    a, steps = augmentation, []
    if a.crop_scale:
        steps.append(v2.RandomResizedCrop(side, scale=(a.crop_scale, 1.0)))
    if a.crop_padding:
        steps.append(v2.RandomCrop(side, padding=a.crop_padding, padding_mode="reflect"))
    if a.flip:
        steps.append(v2.RandomHorizontalFlip())
    if a.rotate or a.shift or a.zoom:
        moved = min(1.0, a.shift / side)
        steps.append(
            v2.RandomAffine(
                [-a.rotate, a.rotate],
                translate=(moved, moved),
                scale=(1 - a.zoom, 1 + a.zoom),
                interpolation=v2.InterpolationMode.BILINEAR,
            )
        )
    if a.jitters:
        steps.append(v2.ColorJitter(a.brightness, a.contrast, a.saturation, a.hue))
    if a.policy == "autoaugment-imagenet":
        steps.append(v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET))
    elif a.policy == "autoaugment-cifar10":
        steps.append(v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10))
    elif a.policy == "randaugment":
        steps.append(v2.RandAugment(a.randaugment_operations, a.randaugment_magnitude))
    return v2.Compose(steps) if steps else v2.Identity()
