"""Measure a subnet: take it out of the supernet, recalibrate its BatchNorm, count its right answers.

Relies on the subnet being plain, so that what is measured is what is shipped.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from deps.ground.errors import DataError
from deps.supernet.arch import ArchSpec
from deps.supernet.batchnorm import recalibrate_bn
from deps.supernet.network import Network
from deps.supernet.supernet import Supernet


def recalibrated_subnet(supernet: Supernet, arch: ArchSpec, batches: Iterable[Tensor]) -> Network:
    """Return one subnet with its own weights and recalibrated statistics, in evaluation mode.

    Args:
        supernet: where its weights are sliced from.
        arch: the subnet.
        batches: training images, each of shape (N, C, H, W), normalised, at the subnet's resolution.
    """
    module = supernet.subnet(arch)
    recalibrate_bn(module, batches)
    return module


@torch.no_grad()
def top1(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the share of images whose largest logit is their label, between 0 and 1.

    Args:
        module: a classifier in evaluation mode.
        batches: pairs of images (N, C, H, W) and labels (N,).

    Raises:
        DataError: there was no image.
    """
    right, seen = torch.zeros((), dtype=torch.long), 0
    for x_NCHW, labels_N in batches:
        right = right.to(labels_N.device) + (module(x_NCHW).argmax(1) == labels_N).sum()
        seen += len(labels_N)
    if seen == 0:
        raise DataError("accuracy needs at least one image; the split is empty")
    return int(right) / seen
