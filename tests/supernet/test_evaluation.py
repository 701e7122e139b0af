"""Measuring a subnet: its own weights, its own statistics, its right answers counted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deps.ground.errors import DataError
from deps.supernet import ArchSpec, get_space, recalibrate_bn
from deps.supernet.evaluation import measure, recalibrated_subnet, top1
from strategies import lived_in

DIGITS = get_space("digits")


def batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 1, 8, 8, generator=generator) for _ in range(count)]


def test_a_recalibrated_subnet_is_the_sliced_one_with_new_statistics():
    supernet, arch = lived_in(DIGITS), ArchSpec.smallest(DIGITS)
    expected = supernet.subnet(arch)
    recalibrate_bn(expected, batches(3))
    measured = recalibrated_subnet(supernet, arch, iter(batches(3)))
    assert all(torch.equal(tensor, measured.state_dict()[name]) for name, tensor in expected.state_dict().items())
    assert not torch.equal(supernet.subnet(arch)(batches(1)[0]), measured(batches(1)[0]))
    assert not measured.training


class Fixed(nn.Module):
    """Answers with the class that each image names."""

    def forward(self, x_NCHW):
        return nn.functional.one_hot(x_NCHW[:, 0, 0, 0].long(), 5).float()


def test_accuracy_is_the_share_of_right_answers_over_all_images():
    """Batches of different size: an average of the batches' accuracies would be 0.75."""
    x = torch.tensor([0.0, 1, 2, 3, 4, 0, 1, 2]).view(-1, 1, 1, 1)
    labels = torch.tensor([0, 1, 2, 0, 0, 1, 1, 2])
    pairs = [(x[:6], labels[:6]), (x[6:], labels[6:])]
    assert top1(Fixed(), pairs) == 5 / 8


def test_loss_is_the_mean_cross_entropy_over_all_images():
    """Batches of different size again, and the same pass gives both."""
    x = torch.tensor([0.0, 1, 2, 3, 4]).view(-1, 1, 1, 1)
    labels = torch.tensor([0, 1, 2, 0, 0])
    accuracy = measure(Fixed(), [(x[:4], labels[:4]), (x[4:], labels[4:])])
    # Logits are 1 for the class named and 0 for the other four.
    assert accuracy.loss == pytest.approx(math.log(math.e + 4) - 3 / 5)
    assert accuracy.top1 == top1(Fixed(), [(x, labels)]) == 3 / 5


def test_accuracy_needs_images():
    with pytest.raises(DataError, match="at least one image"):
        top1(Fixed(), [])
