"""Random changes of whole batches in memory, drawn for each image on its own.

Relies on the draws coming from ``ImageDraws``, so that a resumed run, or a rank with half the batch, sees the same.
torchvision's transforms draw once for a whole batch, or want one image at a time; these draw per image in one call.
Shape suffixes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from deps.train.augmentation import Augmentation
from deps.train.draws import ImageDraws

ERASING_TRIALS = 10
"""Rectangles that are drawn until one fits, as torchvision does."""


def vary(pixels_NCHW: Tensor, augmentation: Augmentation, draws: ImageDraws) -> Tensor:
    """Return each image cropped, mirrored, rotated, shifted and scaled at random, float32 in 0..255.

    Args:
        pixels_NCHW: uint8 images.
        augmentation: what to do; what needs one picture at a time is left to ``pictures.py``.
        draws: source of randomness.
    """
    x_NCHW = pixels_NCHW
    if augmentation.crop_padding or augmentation.flip:
        top, left, mirrored = draws.uniform(3)
        places = 2 * augmentation.crop_padding + 1
        x_NCHW = crop_and_flip(
            x_NCHW,
            tops_N=(top * places).long() - augmentation.crop_padding,
            lefts_N=(left * places).long() - augmentation.crop_padding,
            mirrored_N=(mirrored < 0.5) if augmentation.flip else torch.zeros(len(draws), dtype=torch.bool),
        )
    x_NCHW = x_NCHW.float()
    if augmentation.rotate or augmentation.shift or augmentation.zoom:
        x_NCHW = random_affine(
            x_NCHW, draws, degrees=augmentation.rotate, shift=augmentation.shift, scale=augmentation.zoom
        )
    return x_NCHW


def crop_and_flip(x_NCHW: Tensor, *, tops_N: Tensor, lefts_N: Tensor, mirrored_N: Tensor) -> Tensor:
    """Return a window of each image of its own size, in one gather; what lies outside is its reflection.

    Args:
        x_NCHW: images of any type.
        tops_N: first row of each window; negative above the image.
        lefts_N: first column of each window, before mirroring.
        mirrored_N: whether each window is mirrored left to right.
    """
    count, channels, height, width = x_NCHW.shape
    columns = torch.arange(width).expand(count, -1)
    columns = torch.where(mirrored_N[:, None], columns.flip(1), columns)
    rows_NH = _reflected(tops_N[:, None] + torch.arange(height), height).to(x_NCHW.device)
    columns_NW = _reflected(lefts_N[:, None] + columns, width).to(x_NCHW.device)
    images = torch.arange(count, device=x_NCHW.device).view(-1, 1, 1, 1)
    planes = torch.arange(channels, device=x_NCHW.device).view(1, -1, 1, 1)
    return x_NCHW[images, planes, rows_NH[:, None, :, None], columns_NW[:, None, None, :]]


def _reflected(at: Tensor, size: int) -> Tensor:
    return (size - 1) - ((size - 1) - at.abs()).abs()


def random_affine(x_NCHW: Tensor, draws: ImageDraws, *, degrees: float, shift: float, scale: float) -> Tensor:
    """Return each image rotated, shifted and scaled at random on its own; what comes in from outside is 0.

    Args:
        x_NCHW: float images.
        draws: source of randomness.
        degrees: largest rotation.
        shift: largest shift, in pixels.
        scale: largest change of size, as a share.
    """
    size = x_NCHW.shape[-1]
    angle, dx, dy, zoom = (draws.uniform(4) * 2 - 1).unbind()
    angle, zoom = angle * (degrees * torch.pi / 180), 1 + zoom * scale
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    step = 2 * shift / size
    theta_N23 = torch.stack([torch.stack([cos, -sin, dx * step], 1), torch.stack([sin, cos, dy * step], 1)], 1)
    grid = F.affine_grid(theta_N23.to(x_NCHW.device), list(x_NCHW.shape), align_corners=False)
    return F.grid_sample(x_NCHW, grid, align_corners=False)


def erase(x_NCHW: Tensor, share: float, draws: ImageDraws) -> Tensor:
    """Return normalised images, of a share of which a rectangle is 0, the mean of all images.

    Its area is 2 to 33 % of the image's, its ratio of sides 0.3 to 3.3, as in torchvision's random erasing.

    Source: Zhong et al., Random Erasing Data Augmentation, AAAI 2020.
    """
    height, width = x_NCHW.shape[2:]
    chosen_N = draws.uniform(1)[0] < share
    area, ratio, top, left = draws.uniform(4 * ERASING_TRIALS).view(4, ERASING_TRIALS, -1)
    area = height * width * (0.02 + 0.31 * area)
    ratio = torch.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * ratio)
    heights, widths = torch.sqrt(area * ratio).round(), torch.sqrt(area / ratio).round()
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(0, keepdim=True)

    def picked(values: Tensor) -> Tensor:
        return values.gather(0, first)[0]

    chosen_N &= picked(fits)
    heights, widths = picked(heights), picked(widths)
    tops = (picked(top) * (height - heights + 1)).floor()
    lefts = (picked(left) * (width - widths + 1)).floor()
    rows, columns = torch.arange(height), torch.arange(width)
    inside_NH = (rows >= tops[:, None]) & (rows < (tops + heights)[:, None]) & chosen_N[:, None]
    inside_NW = (columns >= lefts[:, None]) & (columns < (lefts + widths)[:, None])
    inside_NHW = (inside_NH[:, :, None] & inside_NW[:, None, :]).to(x_NCHW.device)
    return x_NCHW.masked_fill(inside_NHW[:, None], 0.0)
