"""Mixup and CutMix between neighbours of a batch; labels become shares of classes.

Relies on pairs being the images 2k and 2k + 1 of the shuffled batch, so a rank that holds an even number of
neighbouring images needs no others. Shape suffixes: N images, C channels, H rows, W columns, V classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deps.train.augmentation import Augmentation


class Mixing(NamedTuple):
    """How the pairs of one batch are mixed."""

    kind: str
    """mixup or cutmix."""

    shares: Tensor
    """What each image keeps of itself, one number a pair, shape (pairs,)."""

    centres: Tensor
    """Where CutMix cuts, as shares of height and width, shape (pairs, 2)."""

    def of(self, first: int, last: int) -> Mixing:
        """Return the mixing of the images ``first`` to ``last`` of the batch."""
        pairs = slice(first // 2, last // 2)
        return Mixing(self.kind, self.shares[pairs], self.centres[pairs])


def draw_mixing(augmentation: Augmentation, batch_size: int, seed: tuple[int, ...]) -> Mixing:
    """Return how a whole batch is mixed; a function of its arguments alone.

    Args:
        augmentation: the Beta distributions; where both are given, a fair coin decides for each batch.
        batch_size: images of the whole batch, over all ranks.
        seed: what the draws depend on.
    """
    rng = np.random.default_rng(seed)
    takes_cutmix = bool(rng.random() < 0.5) if augmentation.mixup and augmentation.cutmix else augmentation.cutmix > 0
    alpha = augmentation.cutmix if takes_cutmix else augmentation.mixup
    shares = torch.from_numpy(rng.beta(alpha, alpha, batch_size // 2).astype(np.float32))
    centres = torch.from_numpy(rng.random((batch_size // 2, 2)).astype(np.float32))
    return Mixing("cutmix" if takes_cutmix else "mixup", shares, centres)


def mixed(x_NCHW: Tensor, labels_N: Tensor, mixing: Mixing, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return mixed images and their shares of classes, shape (N, V); a last image without a neighbour stays.

    Source: Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019.
    """
    count, device = len(x_NCHW) // 2 * 2, x_NCHW.device
    labels_NV = F.one_hot(labels_N, num_classes).float()
    partner = torch.arange(count, device=device) ^ 1
    kept_N = mixing.shares.repeat_interleave(2).to(device)
    others_NCHW = x_NCHW[:count][partner]
    if mixing.kind == "mixup":
        kept_N111 = kept_N.view(-1, 1, 1, 1)
        images = kept_N111 * x_NCHW[:count] + (1 - kept_N111) * others_NCHW
    else:
        inside_NHW = cut_boxes(mixing, x_NCHW.shape[2], x_NCHW.shape[3]).repeat_interleave(2, dim=0).to(device)
        images = torch.where(inside_NHW[:, None], others_NCHW, x_NCHW[:count])
        # The box may have been cut off at the border: labels follow the pixels.
        kept_N = 1 - inside_NHW.float().mean((1, 2))
    labels = kept_N[:, None] * labels_NV[:count] + (1 - kept_N[:, None]) * labels_NV[:count][partner]
    return torch.cat([images, x_NCHW[count:]]), torch.cat([labels, labels_NV[count:]])


def cut_boxes(mixing: Mixing, height: int, width: int) -> Tensor:
    """Return where each pair exchanges pixels, shape (pairs, H, W); the box's sides are √(1 - share) of the image's."""
    half = torch.sqrt(1 - mixing.shares)[:, None] / 2

    def within(centre: Tensor, side: int) -> Tensor:
        middle, reach = (centre * side).floor()[:, None], (half * side).floor()
        at = torch.arange(side)[None]
        return (at >= middle - reach) & (at < middle + reach)

    rows, columns = within(mixing.centres[:, 0], height), within(mixing.centres[:, 1], width)
    return rows[:, :, None] & columns[:, None, :]
