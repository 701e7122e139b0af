"""A pointwise convolution that is a matrix product where maps are small: quicker to train on a processor.

Relies on a channels-last map being a matrix already, pixels by channels, so that nothing is copied. On maps of one or a
few pixels torch's convolutions, backward above all, take several times as long (``benchmarks/pointwise.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL_MAP = 64
"""Pixels of the map up to which the matrix product was measured to be quicker."""


class PointwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with a kernel and a stride of 1 and one group: same parameters, same function up to rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """Return what ``nn.Conv2d`` returns."""
        is_small = input.shape[2] * input.shape[3] <= SMALL_MAP and input.device.type == "cpu"
        if is_small and self.training and torch.is_grad_enabled() and _is_matrix(input):
            return F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        return super().forward(input)


def _is_matrix(map_NCHW: Tensor) -> bool:
    """Whether the map lies in memory pixel by pixel, as every map of one pixel does."""
    return map_NCHW.is_contiguous(memory_format=torch.channels_last)
