"""A subnet trains on without its supernet, repeatably, and the original is left as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deps.extract.finetuned import is_better
from deps.ground.console import Story
from deps.ground.errors import RunError
from deps.supernet import ArchSpec, Supernet, get_space
from deps.supernet.evaluation import Accuracy, measure, recalibrated_subnet
from deps.train.alone import train_alone
from deps.train.datasets import load_data
from deps.train.recipes import get_recipe
from deps.train.run import Run

QUIET = Story(quiet=True)


@pytest.fixture(scope="module")
def data():
    """Few of the real digits."""
    return load_data("digits", train_images=200)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """The digits' recipe, with a learning rate at which few steps are seen to help."""
    recipe = replace(get_recipe("digits"), batch_size=20, lr=1.0, calibration_images=200)
    return Run(folder=tmp_path_factory.mktemp("run"), recipe=recipe)


@pytest.fixture(scope="module")
def subnet(data):
    """The smallest subnet, untrained."""
    space = get_space("digits")
    return recalibrated_subnet(Supernet.create(space), ArchSpec.smallest(space), data.calibration(8, images=200))


def test_training_alone_lowers_the_loss_and_leaves_the_original(subnet, run, data):
    """On validation images, which it never saw."""
    before = {name: tensor.clone() for name, tensor in subnet.state_dict().items()}
    trained = train_alone(subnet, run, data, 8, epochs=2, seed=0, story=QUIET)
    assert all(torch.equal(before[name], tensor) for name, tensor in subnet.state_dict().items())
    assert not trained.training
    assert not any(tensor.requires_grad for tensor in trained.parameters())
    losses = [measure(module, data.validation.batches(100)).loss for module in (subnet, trained)]
    assert losses[1] < losses[0]


def test_the_same_seed_gives_the_same_weights(subnet, run, data):
    """A bundle that is made again must be the same bundle."""
    one, two = (train_alone(subnet, run, data, 8, epochs=1, seed=3, story=QUIET).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_imported_supernet_has_no_settings_to_train_with(subnet, data, tmp_path):
    """Guessing them could only harm."""
    with pytest.raises(RunError, match=r"was imported and has no recipe.*--finetune"):
        train_alone(subnet, Run(folder=tmp_path, recipe=None), data, 8, epochs=1, seed=0, story=QUIET)


def test_better_is_more_right_answers_or_as_many_with_less_loss():
    """What came of training is kept on no other ground."""
    base = Accuracy(0.9, 0.5)
    assert is_better(Accuracy(0.91, 0.9), base)
    assert is_better(Accuracy(0.9, 0.4), base)
    assert not is_better(base, base)
    assert not is_better(Accuracy(0.9, 0.6), base)
    assert not is_better(Accuracy(0.89, 0.1), base)
