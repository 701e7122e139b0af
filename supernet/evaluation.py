"""Measure a subnet: take it out of the supernet, recalibrate its BatchNorm, count its right answers and their loss.

Relies on the subnet being plain, so that what is measured is what is shipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from deps.ground.errors import DataError
from deps.supernet.arch import ArchSpec
from deps.supernet.batchnorm import recalibrate_bn
from deps.supernet.network import Network
from deps.supernet.supernet import Supernet


class Accuracy(NamedTuple):
    """How good a classifier's answers are on some images."""

    top1: float
    """Share of images whose largest logit is their label, between 0 and 1."""

    loss: float
    """Mean cross-entropy of the labels, in nats; it sees how sure an answer is, not only whether it is right."""


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
def measure(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Accuracy:
    """Return top-1 and loss of a classifier, in one pass.

    Args:
        module: a classifier in evaluation mode.
        batches: pairs of images (N, C, H, W) and labels (N,).

    Raises:
        DataError: there was no image.
    """
    right, loss, seen = 0, 0.0, 0
    for x_NCHW, labels_N in batches:
        logits_NV = module(x_NCHW)
        right += int((logits_NV.argmax(1) == labels_N).sum())
        # In float64, so that the mean does not depend on how the images were batched.
        loss += float(functional.cross_entropy(logits_NV.double(), labels_N, reduction="sum"))
        seen += len(labels_N)
    if seen == 0:
        raise DataError("accuracy needs at least one image; the split is empty")
    return Accuracy(right / seen, loss / seen)


def top1(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the share of images whose largest logit is their label, between 0 and 1.

    Args:
        module: a classifier in evaluation mode.
        batches: pairs of images (N, C, H, W) and labels (N,).

    Raises:
        DataError: there was no image.
    """
    return measure(module, batches).top1
