"""The matrix product in the place of a pointwise convolution is torch's convolution, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from deps.supernet.pointwise import PointwiseConv2d


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradients_are_those_of_torch(size: int, has_bias: bool, layout: torch.memory_format):
    """Below and above the limit, in either layout; in float64, so that nothing can hide in rounding."""
    torch.manual_seed(size)
    layer = PointwiseConv2d(6, 10, 1, bias=has_bias).double().train()
    x = torch.randn(3, 6, size, size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    expected = F.conv2d(x, layer.weight, layer.bias)
    weighting = torch.randn_like(expected)
    by_torch = torch.autograd.grad((expected * weighting).sum(), (x, *layer.parameters()))
    found = layer(x)
    ours = torch.autograd.grad((found * weighting).sum(), (x, *layer.parameters()))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours, by_torch)


def test_a_channels_last_map_stays_channels_last():
    """Otherwise the next layer would copy it."""
    layer = PointwiseConv2d(6, 10, 1).train()
    found = layer(torch.randn(3, 6, 4, 4).contiguous(memory_format=torch.channels_last))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_weights_may_be_a_slice_of_larger_ones():
    """As those of a subnet are."""
    layer = PointwiseConv2d(6, 10, 1, bias=False).train()
    shared = torch.randn(16, 12, 1, 1, requires_grad=True)
    x = torch.randn(3, 6, 2, 2).contiguous(memory_format=torch.channels_last)
    found = torch.func.functional_call(layer, {"weight": shared[:10, :6]}, (x,))
    (gradient,) = torch.autograd.grad(found.square().sum(), shared)
    (expected,) = torch.autograd.grad(F.conv2d(x, shared[:10, :6]).square().sum(), shared)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
    assert gradient[10:].abs().sum() == gradient[:, 6:].abs().sum() == 0


def test_measuring_gives_the_bits_of_torch():
    """In evaluation nothing is put in its place, so accuracies do not depend on what was quicker."""
    layer = PointwiseConv2d(6, 10, 1).eval()
    x = torch.randn(3, 6, 2, 2).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias))
