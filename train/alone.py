"""Train a plain network alone; above all one subnet, from the weights that it has in the supernet, for the last tenth.

Relies on the subnet being a plain network: nothing of the supernet takes part. The run's own recipe says how images are
varied, how large a batch is and what decays; the learning rate is a small share of the one it started with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from deps.ground.console import Story
from deps.ground.errors import RunError
from deps.supernet.batchnorm import recalibrate_bn
from deps.supernet.network import Network
from deps.train.data import ImageData
from deps.train.device import memory_format
from deps.train.losses import label_loss
from deps.train.recipe import Recipe
from deps.train.run import Run
from deps.train.schedule import cosine_lr
from deps.train.step import set_lr, sgd

LR_SHARE = 0.05
"""Of the run's learning rate: weights that are good already are only to be nudged."""


def train_alone(
    network: Network, run: Run, data: ImageData, resolution: int, *, epochs: int, seed: int, story: Story
) -> Network:
    """Return a copy of a subnet that was trained further on its own, in evaluation mode; the original stays.

    Args:
        network: the subnet, recalibrated.
        run: whose recipe says how.
        data: images; only those for training are used.
        resolution: side of the images.
        epochs: passes over the training images.
        seed: of the order of images and of their augmentation.
        story: shows progress.

    Raises:
        RunError: the run was imported and has no recipe.
        DataError: there are fewer images than one batch holds.
    """
    if run.recipe is None:
        raise RunError(
            f"{run.folder} was imported and has no recipe; expected the settings it was trained with; "
            "leave out --finetune, or train a supernet here"
        )
    trained = copy.deepcopy(network)
    _train(trained, run.recipe, data, resolution, epochs=epochs, seed=seed, story=story)
    # As the subnets of the search: statistics of training images, and the same ones every time.
    device = next(trained.parameters()).device
    batches = data.calibration(resolution, images=run.recipe.calibration_images)
    recalibrate_bn(trained, (x_NCHW.to(device) for x_NCHW in batches))
    return trained.eval()


def train_steps(
    network: nn.Module,
    recipe: Recipe,
    data: ImageData,
    optimizer: torch.optim.SGD,
    steps: range,
    *,
    lr: Callable[[int], float],
    seed: int,
    resolution: int | None = None,
) -> Iterator[int]:
    """Train a plain network in place on labels, and yield each step that was done.

    Args:
        network: in training mode, its parameters those of the optimizer.
        recipe: batch size, augmentation, smoothing, bound of the gradient, layout.
        data: images; only those for training are used.
        optimizer: of the network.
        steps: counted from the start of training; batches and dropout are functions of them.
        lr: learning rate of a step.
        seed: of the order of images, their augmentation and dropout.
        resolution: side of the images; None leaves them as they are.

    Raises:
        DataError: there are fewer images than one batch holds.
    """
    parameters = list(network.parameters())
    device = parameters[0].device
    layout = memory_format(device, recipe.layout)
    stream = data.training_stream(steps, recipe.batch_size, seed=seed, resolution=lambda _: resolution)
    for step, (x_NCHW, labels_N) in zip(steps, stream, strict=True):
        set_lr(optimizer, lr(step))
        torch.manual_seed(seed * 1_000_003 + step)  # Dropout, where there is some, survives a resume.
        optimizer.zero_grad(set_to_none=True)
        logits_NV = network(x_NCHW.to(device).contiguous(memory_format=layout))
        torch.autograd.backward(label_loss(logits_NV, labels_N.to(device), smoothing=recipe.label_smoothing))
        if recipe.clip_gradient > 0:
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_gradient)
        optimizer.step()
        yield step


def _train(
    network: Network, recipe: Recipe, data: ImageData, resolution: int, *, epochs: int, seed: int, story: Story
) -> None:
    parameters: dict[str, Tensor] = dict(network.named_parameters())
    device = next(network.parameters()).device
    for tensor in parameters.values():
        tensor.requires_grad_(True)
    steps = epochs * data.steps_per_epoch(recipe.batch_size)

    def lr(step: int) -> float:
        return cosine_lr(step, steps=steps, lr=LR_SHARE * recipe.lr)

    network.train()
    done = train_steps(
        network, recipe, data, sgd(parameters, recipe), range(steps), lr=lr, seed=seed, resolution=resolution
    )
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for _ in story.track(done, "fine-tuning", total=steps, unit="step"):
                pass
    finally:
        network.eval()
        for tensor in parameters.values():
            tensor.requires_grad_(False)
