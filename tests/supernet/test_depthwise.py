"""The quick depthwise convolution is torch's, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from deps.supernet.depthwise import DepthwiseConv2d


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 13])
def test_output_and_gradients_are_those_of_torch(kernel: int, stride: int, size: int):
    """Maps of all parities and smaller than the kernel; in float64, so that a wrong tap cannot hide in rounding."""
    torch.manual_seed(size)
    layer = DepthwiseConv2d(6, 6, kernel, stride=stride, padding=kernel // 2, groups=6, bias=False).double().train()
    x = torch.randn(3, 6, size, size, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(x, layer.weight, stride=stride, padding=kernel // 2, groups=6)
    weighting = torch.randn_like(expected)
    by_torch = torch.autograd.grad((expected * weighting).sum(), (x, layer.weight))
    found = layer(x)
    ours = torch.autograd.grad((found * weighting).sum(), (x, layer.weight))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours, by_torch)


@pytest.mark.parametrize("size", [2, 6])
def test_a_channels_last_map_gives_the_same_gradient(size: int):
    """Either layout may come in, on maps of few pixels and of many."""
    layer = DepthwiseConv2d(8, 8, 5, padding=2, groups=8, bias=False).train()
    x = torch.randn(2, 8, size, size)
    for map_ in (x, x.contiguous(memory_format=torch.channels_last)):
        layer.weight.grad = None
        layer(map_).square().sum().backward()
        gradient = layer.weight.grad
        expected = torch.autograd.grad(F.conv2d(x, layer.weight, padding=2, groups=8).square().sum(), layer.weight)
        torch.testing.assert_close(gradient, expected[0], rtol=1e-4, atol=1e-4)
