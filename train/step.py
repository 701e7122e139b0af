"""One optimizer step over several subnets: slice, run plain networks, sum gradients, step once.

Relies on ``slice_weights`` being differentiable, so gradients of every subnet land in the supernet's own tensors.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from deps.supernet.arch import ArchSpec
from deps.supernet.network import Network, skeleton
from deps.supernet.slicing import slice_weights
from deps.supernet.space import SearchSpace
from deps.supernet.supernet import Supernet, is_statistic
from deps.train.losses import distill_loss, label_loss, main_labels
from deps.train.methods import Share, StepPlan
from deps.train.recipe import Recipe


class StepResult(NamedTuple):
    """What one step measured on its way."""

    losses: dict[str, Tensor]
    """Mean loss by role (largest, smallest, random), still on the device."""

    right: Tensor
    """How many images of the batch the first subnet of the step named rightly, still on the device."""


def trainable(supernet: Supernet) -> dict[str, Tensor]:
    """Mark the parameters of a supernet as trained, and return them by name."""
    parameters = supernet.parameters
    for tensor in parameters.values():
        tensor.requires_grad_(True)
    return parameters


def sgd(parameters: dict[str, Tensor], recipe: Recipe) -> torch.optim.SGD:
    """Return SGD with Nesterov momentum; BatchNorm and biases have no weight decay.

    Momentum buffers start as zeros, which gives the same first step as torch's late creation and makes them sortable
    and savable at any time.
    """
    decayed = {name: t for name, t in parameters.items() if t.dim() > 1}
    plain = {name: t for name, t in parameters.items() if t.dim() <= 1}
    optimizer = torch.optim.SGD(
        [
            {"params": list(decayed.values()), "weight_decay": recipe.weight_decay},
            {"params": list(plain.values()), "weight_decay": 0.0},
        ],
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )
    for tensor in parameters.values():
        if recipe.momentum > 0:
            optimizer.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor)
    return optimizer


def momentum_of(optimizer: torch.optim.SGD, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the momentum buffers by the names of their parameters; empty without momentum."""
    state = optimizer.state
    return {name: state[t]["momentum_buffer"] for name, t in parameters.items() if "momentum_buffer" in state[t]}


def train_step(
    supernet: Supernet,
    parameters: dict[str, Tensor],
    optimizer: torch.optim.SGD,
    plan: StepPlan,
    recipe: Recipe,
    x_NCHW: Tensor,
    labels_N: Tensor,
    teacher: Supernet | None = None,
) -> StepResult:
    """Carry out one step of a method's plan, in place.

    The gradient is the sum over the shares, each times its scale. Only the largest subnet updates BatchNorm's running
    statistics: the slices that smaller subnets would write to are statistics of the full model.

    Args:
        supernet: whose tensors are trained.
        parameters: its trained tensors.
        optimizer: steps once, at the plan's learning rate.
        plan: what the method wants of this step.
        recipe: losses and bounds.
        x_NCHW: images.
        labels_N: their classes, or shares of classes (N, V) where images were mixed.
        teacher: a finished full model, for methods that have one.
    """
    if plan.sorts_channels:
        supernet.sort_channels(momentum_of(optimizer, parameters), rings=plan.sorting_rings)
    optimizer.zero_grad(set_to_none=True)
    losses: dict[str, Tensor] = {}
    first_NV: Tensor | None = None
    soft_NV = teacher_logits(teacher, x_NCHW) if teacher is not None else None
    for share in plan.shares:
        logits_NV = run_share(supernet, share, x_NCHW)
        if first_NV is None:
            first_NV = logits_NV.detach()
        loss = share_loss(share, logits_NV, labels_N, soft_NV if share.loss == "teacher" else first_NV, recipe)
        torch.autograd.backward(loss * share.scale)
        count = sum(other.role == share.role for other in plan.shares)
        losses[share.role] = losses.get(share.role, 0.0) + loss.detach() / count

    for group in optimizer.param_groups:
        group["lr"] = plan.lr
    if recipe.clip_gradient > 0:
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), recipe.clip_gradient)
    optimizer.step()
    assert first_NV is not None, "a step has at least one share"
    return StepResult(losses=losses, right=(first_NV.argmax(1) == main_labels(labels_N)).sum())


def share_loss(share: Share, logits_NV: Tensor, labels_N: Tensor, soft_NV: Tensor | None, recipe: Recipe) -> Tensor:
    """Return the loss of one share.

    Args:
        share: says which loss.
        logits_NV: of its subnet.
        labels_N: classes of the images.
        soft_NV: logits of what teaches it: the largest subnet in this step, or a finished teacher.
        recipe: smoothing and temperature.
    """
    if share.loss == "labels":
        return label_loss(logits_NV, labels_N, smoothing=recipe.label_smoothing)
    assert soft_NV is not None, "a method has its teacher before it distils"
    distilled = distill_loss(logits_NV, soft_NV, temperature=recipe.distill_temperature)
    if share.loss == "distill":
        return distilled
    return distilled + label_loss(logits_NV, labels_N, smoothing=recipe.label_smoothing)


@torch.no_grad()
def teacher_logits(teacher: Supernet, x_NCHW: Tensor) -> Tensor:
    """Return the logits of a finished full model, shape (N, classes); it normalises with the batch, as students do."""
    share = Share(ArchSpec.largest(teacher.space, x_NCHW.shape[-1]), "random", "labels", 1.0, 0.0)
    return run_share(teacher, share, x_NCHW)


def run_share(supernet: Supernet, share: Share, x_NCHW: Tensor) -> Tensor:
    """Return the training-mode logits of one subnet, shape (N, classes)."""
    weights = slice_weights(supernet.space, supernet.tensors, share.arch)
    if share.role != "largest":
        weights = {name: w.clone() if is_statistic(name) else w for name, w in weights.items()}
    module = training_skeleton(supernet.space, share.arch, share.dropout)
    logits_NV: Tensor = functional_call(module, weights, (x_NCHW,), strict=True)
    return logits_NV


@functools.lru_cache(maxsize=64)
def training_skeleton(space: SearchSpace, arch: ArchSpec, dropout: float) -> Network:
    """Return the weightless network of a subnet in training mode; the largest and the smallest are met every step."""
    return skeleton(space, arch, is_training=True, dropout=dropout)
