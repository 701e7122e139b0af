"""Accuracy of a subnet, measured by all ranks together: each takes its part, and sums are exchanged.

Relies on averages over images being sums over ranks, so the result does not depend on how many there are (BatchNorm's
statistics up to rounding).
"""

from __future__ import annotations

import torch

from deps.supernet.arch import ArchSpec
from deps.supernet.batchnorm import recalibrate_bn
from deps.supernet.evaluation import top1
from deps.supernet.network import Network
from deps.supernet.supernet import Supernet, is_statistic
from deps.train.data import ImageData, Split
from deps.train.distributed import ALONE, Ranks

BATCH = 500


def calibrated(supernet: Supernet, arch: ArchSpec, data: ImageData, *, images: int, ranks: Ranks = ALONE) -> Network:
    """Return one subnet with its own weights and recalibrated statistics, in evaluation mode.

    Args:
        supernet: where its weights are sliced from.
        arch: the subnet.
        data: whose training images BatchNorm is recalibrated from.
        images: how many of them.
        ranks: who shares the work.
    """
    module = supernet.subnet(arch)
    batches = list(data.calibration(arch.resolution, images=images, shard=(ranks.rank, ranks.size)))
    seen = sum(len(batch) for batch in batches)
    if seen:
        recalibrate_bn(module, batches)
    if ranks.size > 1:
        statistics = [t for name, t in module.state_dict().items() if is_statistic(name) and t.is_floating_point()]
        device = statistics[0].device
        flat = torch.cat([t.double().flatten() * seen for t in statistics] + [torch.tensor([float(seen)]).to(device)])
        ranks.sum(flat)
        means = torch.split(flat[:-1] / flat[-1], [t.numel() for t in statistics])
        for tensor, mean in zip(statistics, means, strict=True):
            tensor.copy_(mean.view(tensor.shape))
    return module


def accuracy(module: Network, split: Split, resolution: int, *, ranks: Ranks = ALONE) -> float:
    """Return top-1 on a split, between 0 and 1.

    Args:
        module: a classifier in evaluation mode.
        split: the images.
        resolution: their side.
        ranks: who shares the work.
    """
    part = ranks.part(len(split))
    count = part.stop - part.start
    mine = split if ranks.size == 1 else split.part(part) if count else None
    right = round(top1(module, mine.batches(BATCH, resolution=resolution)) * count) if mine is not None else 0
    return ranks.sum_numbers(right)[0] / len(split)
