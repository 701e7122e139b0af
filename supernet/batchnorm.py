"""BatchNorm statistics of one subnet, re-estimated with its weights fixed.

Relies on the subnet being plain: statistics belong to it alone, and no other subnet is disturbed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deps.ground.errors import DataError


class _Average:
    """Running average of per-batch means and biased variances, weighted by batch size."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.var: Tensor | float = 0.0

    def add(self, images: int, mean: Tensor, var: Tensor) -> None:
        self.count += images
        self.mean += (mean - self.mean) * (images / self.count)
        self.var += (var - self.var) * (images / self.count)


@contextlib.contextmanager
def _observed(norms: list[nn.BatchNorm2d]) -> Iterator[dict[nn.BatchNorm2d, _Average]]:
    """Make each layer normalise with the present batch's statistics and keep their average."""
    averages = {norm: _Average() for norm in norms}

    def replace(norm: nn.BatchNorm2d) -> None:
        def forward(input: Tensor) -> Tensor:
            # Half precision could neither hold a large variance nor add up small differences.
            x_NCHW = input.to(torch.promote_types(input.dtype, torch.float32))
            weight, bias = norm.weight.to(x_NCHW.dtype), norm.bias.to(x_NCHW.dtype)
            # With a momentum of 1 the running statistics become this batch's, in one pass instead of a slow second one.
            mean, var = x_NCHW.new_zeros(2, x_NCHW.shape[1])
            output = F.batch_norm(x_NCHW, mean, var, weight, bias, training=True, momentum=1.0, eps=norm.eps)
            # A running variance is the unbiased one; what the map was divided by is not.
            values = x_NCHW.numel() // x_NCHW.shape[1]
            averages[norm].add(len(input), mean, var * ((values - 1) / values))
            return output.to(input.dtype)

        norm.forward = forward  # type: ignore[method-assign]

    try:
        for norm in norms:
            replace(norm)
        yield averages
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)


@torch.no_grad()
def recalibrate_bn(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Overwrite the running statistics of every BatchNorm of ``module``, in place.

    Each batch is normalised with its own mean and biased variance; the statistics become the averages of these over
    the batches, weighted by batch size (an average of variances, not a pooled variance). Weights are untouched.

    Args:
        module: a plain subnet.
        batches: training images, each of shape (N, C, H, W), at the subnet's resolution.

    Raises:
        DataError: there was no batch.

    Source: the recalibration of once-for-all and of BigNAS.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats]
    was_training = module.training
    seen = 0
    try:
        # Everything but BatchNorm does what it does when the subnet is used: no dropout.
        module.eval()
        with _observed(norms) as averages:
            for x_NCHW in batches:
                module(x_NCHW)
                seen += x_NCHW.shape[0]
    finally:
        module.train(was_training)
    if seen == 0:
        raise DataError("BatchNorm cannot be recalibrated without images; give at least one batch")
    for norm, average in averages.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(torch.as_tensor(average.mean))
        norm.running_var.copy_(torch.as_tensor(average.var))
