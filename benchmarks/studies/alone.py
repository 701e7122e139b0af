"""A plain network trained from scratch by a supernet's recipe: the yardstick.

Relies on the loop of ``deps.train.alone``, and on the recipe saying everything: images and their order, augmentation,
schedule, decay, label smoothing. What belongs to supernets alone (subnets, distillation, sorting) has no meaning here.
Resumes at the last whole epoch.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn

from deps.ground.files import whole_file
from deps.supernet.depthwise import DepthwiseConv2d
from deps.train.alone import train_steps
from deps.train.data import ImageData
from deps.train.recipe import Recipe
from deps.train.run import cpu_threads
from deps.train.schedule import cosine_lr
from deps.train.step import momentum_of, sgd


def train_alone(module: nn.Module, recipe: Recipe, data: ImageData, folder: Path) -> float:
    """Train a network in place, or load what a former call trained; it is left in evaluation mode.

    Args:
        module: freshly initialised.
        recipe: how.
        data: images; only those for training are used.
        folder: where its state is kept, an epoch at a time.

    Returns:
        Seconds spent training.
    """
    with_quick_gradients(module)
    parameters: dict[str, Tensor] = dict(module.named_parameters())
    for tensor in parameters.values():
        tensor.requires_grad_(True)
    optimizer = sgd(parameters, recipe)
    per_epoch = data.steps_per_epoch(recipe.batch_size)
    steps, first, seconds = recipe.steps(per_epoch), 0, 0.0
    path = folder / "state.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)
        module.load_state_dict(state["module"])
        for name, buffer in momentum_of(optimizer, parameters).items():
            buffer.copy_(state["momentum"][name])
        first, seconds = state["step"], state["seconds"]

    def lr(step: int) -> float:
        return cosine_lr(step, steps=steps, lr=recipe.lr, warmup_steps=recipe.lr_warmup * per_epoch)

    module.train()
    began = time.monotonic()
    with cpu_threads(recipe.threads):
        for step in train_steps(module, recipe, data, optimizer, range(first, steps), lr=lr, seed=recipe.seed):
            if (step + 1) % per_epoch == 0 or step + 1 == steps:
                spent = seconds + time.monotonic() - began
                _save(path, module, momentum_of(optimizer, parameters), step + 1, spent)
                print(f"{folder.name}: epoch {(step + 1) / per_epoch:.1f} of {steps / per_epoch:.1f}, {spent:.0f} s")
    for tensor in parameters.values():
        tensor.requires_grad_(False)
    module.eval()
    return seconds + time.monotonic() - began if first < steps else seconds


def with_quick_gradients(module: nn.Module) -> None:
    """Let the depthwise layers of any network use our gradient, which is torch's and quicker."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d and layer.groups == layer.in_channels > 1 and layer.dilation == (1, 1):
            layer.__class__ = DepthwiseConv2d


def _save(path: Path, module: nn.Module, momentum: dict[str, Tensor], step: int, seconds: float) -> None:
    state = {"module": module.state_dict(), "momentum": momentum, "step": step, "seconds": seconds}
    with whole_file(path) as temporary:
        torch.save(state, temporary)
