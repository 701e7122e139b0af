"""Recalibration: averages of per-batch means and biased variances, weighted by batch size, and nothing else touched."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deps.ground.errors import DataError
from deps.supernet import ArchSpec, get_space, recalibrate_bn
from strategies import archs, invented_spaces, lived_in

DIGITS = get_space("digits")


def images(count, size=8, channels=1, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, size, size, generator=generator, dtype=dtype)


def reference(layers, batches):
    """The definition, once more: layer by layer, batch by batch, in plain sums; returns (mean, var) per BatchNorm."""
    totals = {}
    seen = 0
    for batch in batches:
        x = batch
        for index, layer in enumerate(layers):
            if isinstance(layer, nn.BatchNorm2d):
                count = x.shape[0] * x.shape[2] * x.shape[3]
                mean = x.sum((0, 2, 3)) / count
                var = ((x - mean[:, None, None]) ** 2).sum((0, 2, 3)) / count
                old = totals.get(index, (0, 0))
                totals[index] = (old[0] + len(batch) * mean, old[1] + len(batch) * var)
                x = (x - mean[:, None, None]) / (var[:, None, None] + layer.eps).sqrt()
                x = x * layer.weight[:, None, None] + layer.bias[:, None, None]
            else:
                x = layer(x)
        seen += len(batch)
    return [(mean / seen, var / seen) for mean, var in totals.values()]


def small_net():
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)]
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("sizes", [[12], [5, 5, 2], [1, 11], [1] * 12], ids=str)
def test_statistics_are_the_weighted_averages_of_the_batches(sizes):
    """Two layers deep, since the second sees what the first normalised with its batch's own statistics."""
    net = small_net()
    batches = images(12, dtype=torch.float64).split(sizes)
    expected = reference(list(net), batches)
    recalibrate_bn(net, batches)
    norms = [layer for layer in net if isinstance(layer, nn.BatchNorm2d)]
    for norm, (mean, var) in zip(norms, expected, strict=True):
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, var)


def test_variances_are_averaged_and_not_pooled():
    """Batches with different means: the pooled variance would be 1, the average of the batches' variances is 0."""
    norm = nn.BatchNorm2d(1)
    recalibrate_bn(norm, [torch.full((2, 1, 3, 3), -1.0), torch.full((2, 1, 3, 3), 1.0)])
    assert norm.running_mean.item() == 0
    assert norm.running_var.item() == 0


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5))
@settings(max_examples=20)
def test_the_mean_of_the_first_layer_does_not_depend_on_the_batching(sizes):
    """True of means before any BatchNorm, and of them alone: a variance within small batches is smaller."""
    data = images(sum(sizes), dtype=torch.float64)
    one, other = nn.BatchNorm2d(1).double(), nn.BatchNorm2d(1).double()
    recalibrate_bn(one, [data])
    recalibrate_bn(other, data.split(sizes))
    torch.testing.assert_close(one.running_mean, other.running_mean)
    assert other.running_var.item() <= one.running_var.item() * (1 + 1e-12)


@given(parts=st.integers(1, 6))
def test_batches_alike_give_the_same_numbers_however_many_there_are(parts):
    data = images(4, dtype=torch.float64)
    one, other = small_net(), small_net()
    recalibrate_bn(one, [data])
    recalibrate_bn(other, [data] * parts)
    for a, b in zip(one.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@given(data=st.data(), space=invented_spaces())
@settings(max_examples=15)
def test_weights_and_counters_are_untouched_and_every_statistic_is_new(data, space):
    arch = data.draw(archs(space))
    supernet = lived_in(space)
    before = {name: tensor.clone() for name, tensor in supernet.tensors.items()}
    subnet = supernet.subnet(arch)
    weights = {name: parameter.clone() for name, parameter in subnet.named_parameters()}
    x = images(3, arch.resolution, space.in_channels)
    recalibrate_bn(subnet, [x, x + 1])
    assert all(torch.equal(weights[name], parameter) for name, parameter in subnet.named_parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.tensors.items())
    assert not subnet.training
    for name, tensor in subnet.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert tensor == 7
        else:
            full = before[name][: len(tensor)]
            assert torch.isfinite(tensor).all()
            assert not torch.equal(tensor, full)


def test_a_single_batch_makes_evaluation_equal_to_that_batch():
    """With one batch the running statistics are its own, so the recalibrated subnet normalises it exactly."""
    subnet = lived_in(DIGITS).to(dtype=torch.float64).subnet(ArchSpec.smallest(DIGITS))
    x = images(16, dtype=torch.float64)
    recalibrate_bn(subnet, [x])
    outputs = []
    layer = subnet.stages[0][0].expand.norm
    handle = layer.register_forward_hook(lambda _m, _i, y: outputs.append(y))
    subnet(x)
    handle.remove()
    normalised = (outputs[0] - layer.bias[:, None, None]) / layer.weight[:, None, None]
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(16 * 2, dtype=torch.float64)[: len(layer.bias)])


def test_dropout_is_off_and_the_mode_comes_back():
    subnet = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1)).train()
    x = torch.ones(2, 1, 4, 4)
    recalibrate_bn(subnet, [x])
    assert subnet[1].running_mean.item() == 1
    assert subnet[0].training
    assert subnet[1].training


def test_an_error_on_the_way_leaves_the_network_as_it_was():
    """An unreadable image in the middle of the calibration set must not leave half a network behind."""
    subnet = lived_in(DIGITS).subnet(ArchSpec.smallest(DIGITS)).train()
    before = {name: tensor.clone() for name, tensor in subnet.state_dict().items()}

    def broken():
        yield images(2)
        raise DataError("an image cannot be read")

    with pytest.raises(DataError, match="an image cannot be read"):
        recalibrate_bn(subnet, broken())
    assert subnet.training
    assert all(torch.equal(before[name], tensor) for name, tensor in subnet.state_dict().items())
    assert not any("forward" in vars(module) for module in subnet.modules())


def test_recalibration_needs_images():
    with pytest.raises(DataError, match=re.escape("cannot be recalibrated without images")):
        recalibrate_bn(nn.BatchNorm2d(1), [])


def test_half_precision_is_averaged_in_full():
    """Two hundred batches in bfloat16: an average kept in bfloat16 would stop moving after a few."""
    norm = nn.BatchNorm2d(1).to(torch.bfloat16)
    x = torch.cat([torch.zeros(100, 1, 2, 2), torch.ones(100, 1, 2, 2)]).to(torch.bfloat16)
    recalibrate_bn(norm, x.split(1))
    assert norm.running_mean.item() == pytest.approx(0.5, abs=0.002)
