"""A depthwise convolution whose weight gradient is quick on a processor.

Relies on the gradient of a filter being itself a convolution, of the input with the gradient of the output. torch's own
CPU kernel for it is many times slower for kernels of 5 and 7 than for 3, and for those of 3 on maps smaller than the
kernel (``benchmarks/depthwise.py``); it was most of a training step.

Shape suffixes: N images, C channels, H and W pixels, h and w pixels of the output, k kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL_MAP = 16
"""Pixels of the input up to which all pairs of pixels are correlated at once."""


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with one filter a channel: same parameters, same function, same gradients up to rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """Return what ``nn.Conv2d`` returns."""
        kernel = self.weight.shape[-1]
        is_slow = input.device.type == "cpu" and (kernel > 3 or (kernel == 3 and min(input.shape[2:]) < 3))
        if is_slow and self.training and torch.is_grad_enabled():
            assert isinstance(self.padding, tuple)
            y: Tensor = _Depthwise.apply(input, self.weight, self.stride[0], self.padding[0])
            return y
        return super().forward(input)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, weight_C1kk: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x_NCHW, weight_C1kk)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x_NCHW, weight_C1kk, stride=stride, padding=padding, groups=weight_C1kk.shape[0])

    @staticmethod
    @torch.autograd.function.once_differentiable
    # torch calls it by position, and the decorator hides the names.
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient_NChw,) = gradients
        x_NCHW, weight_C1kk = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        of_x, of_weight = None, None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.convolution_backward(
                gradient_NChw, x_NCHW, weight_C1kk, None, [stride, stride], [padding, padding], [1, 1], False, [0, 0],
                weight_C1kk.shape[0], [True, False, False],
            )[0]  # fmt: skip
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(x_NCHW, gradient_NChw, weight_C1kk.shape[-1], stride, padding)
        return of_x, of_weight, None, None


def weight_gradient(x_NCHW: Tensor, gradient_NChw: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Return the gradient of a depthwise convolution's filters, shape (C, 1, k, k).

    Args:
        x_NCHW: what was convolved.
        gradient_NChw: gradient of the result.
        kernel: k.
        stride: of the convolution, alike in both directions.
        padding: of the convolution, alike on all sides.
    """
    n, c, height, width = x_NCHW.shape
    h, w = gradient_NChw.shape[2:]
    if height * width <= SMALL_MAP:
        # Every pixel of the output against every pixel of the input, one matrix product a channel, and of these the
        # pairs that a filter's tap joins: for output (i, j) and tap (p, q) input (i s + p, j s + q), counted from the
        # padded corner. A matrix product wants either side of its matrices in one piece, which channels-last has not.
        x_NCHW, gradient_NChw = x_NCHW.contiguous(), gradient_NChw.contiguous()
        pairs = torch.bmm(gradient_NChw.reshape(n, c, -1).permute(1, 2, 0), x_NCHW.reshape(n, c, -1).transpose(0, 1))
        pairs = F.pad(pairs.view(c, h, w, height, width), (padding,) * 4)
        a, b, d, e, f = pairs.stride()
        taps = pairs.as_strided((c, h, w, kernel, kernel), (a, b + stride * e, d + stride * f, e, f))
        return taps.sum((1, 2)).unsqueeze(1)
    # One group an image and channel: the input convolved with the gradient of the output; a stride becomes a dilation.
    each = F.conv2d(
        x_NCHW.reshape(1, n * c, height, width),
        gradient_NChw.reshape(n * c, 1, h, w),
        padding=padding,
        dilation=stride,
        groups=n * c,
    )
    return each[:, :, :kernel, :kernel].reshape(n, c, kernel, kernel).sum(0).unsqueeze(1)
