"""One optimizer step over several subnets: slice, run plain networks, sum gradients, step once.

Relies on ``slice_weights`` being differentiable, and on a batch being a list of *groups* of images, each normalised by
its own statistics: however many processes share the groups out, the step is the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from deps.supernet.arch import ArchSpec
from deps.supernet.network import Network, call_with, skeleton
from deps.supernet.plan import CLASSIFIER
from deps.supernet.slicing import slice_weights
from deps.supernet.space import SearchSpace
from deps.supernet.supernet import Supernet, is_statistic
from deps.train.distributed import ALONE, Ranks
from deps.train.gradients import RECORDS, Corner, Gradients
from deps.train.losses import distill_loss, label_loss, main_labels
from deps.train.methods import Share, StepPlan
from deps.train.recipe import Recipe

GROUP_SEED = 0x9E3779B1
"""Sets the dropout of the groups of a batch apart."""


Observer: TypeAlias = Callable[[int, Corner, Sequence[Tensor | None], float], None]
"""Is told the share's index, the corner, the gradients of its leaves, and the group's part of the batch."""


class StepResult(NamedTuple):
    """What one step measured on its way, over all ranks; still on the device."""

    losses: dict[str, Tensor]
    """Mean loss by role (largest, smallest, random)."""

    right: Tensor
    """How many images of the batch the first subnet of the step named rightly."""

    records: Tensor
    """The same numbers in the order of ``RECORDS``, float32; valid until the next step."""


@dataclass(frozen=True, eq=False)
class Learner:
    """What a step changes, and how it computes."""

    supernet: Supernet
    recipe: Recipe
    parameters: dict[str, Tensor]
    optimizer: torch.optim.SGD
    gradients: Gradients
    ranks: Ranks = ALONE
    autocast: torch.dtype | None = None
    """Type that convolutions and products compute in; None leaves them in float32."""

    memory_format: torch.memory_format = torch.contiguous_format
    """Layout of the images, and so of every map."""

    @classmethod
    def create(
        cls,
        supernet: Supernet,
        recipe: Recipe,
        *,
        ranks: Ranks = ALONE,
        autocast: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Learner:
        """Mark the parameters of a supernet as trained and make what a step needs."""
        parameters = trainable(supernet)
        optimizer = sgd(parameters, recipe)
        return cls(supernet, recipe, parameters, optimizer, Gradients(supernet), ranks, autocast, memory_format)

    @property
    def momentum(self) -> dict[str, Tensor]:
        """The momentum buffers by the names of their parameters; empty without momentum."""
        return momentum_of(self.optimizer, self.parameters)


def trainable(supernet: Supernet) -> dict[str, Tensor]:
    """Mark the parameters of a supernet as trained, and return them by name."""
    parameters = supernet.parameters
    for tensor in parameters.values():
        tensor.requires_grad_(True)
    return parameters


def sgd(parameters: dict[str, Tensor], recipe: Recipe) -> torch.optim.SGD:
    """Return SGD with Nesterov momentum; BatchNorm and biases have no weight decay, the classifier has its own rate.

    Momentum buffers start as zeros, which gives the same first step as torch's late creation and makes them sortable
    and savable at any time.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, tensor in parameters.items():
        decay = recipe.weight_decay if tensor.dim() > 1 else 0.0
        share = recipe.classifier_lr if name.startswith(f"{CLASSIFIER}.") else 1.0
        groups.setdefault((decay, share), []).append(tensor)
    optimizer = torch.optim.SGD(
        [{"params": each, "weight_decay": decay, "lr_share": share} for (decay, share), each in groups.items()],
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        # One kernel over all tensors; a supernet of the digits has 150 small ones.
        fused=True,
    )
    for tensor in parameters.values():
        if recipe.momentum > 0:
            optimizer.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor)
    return optimizer


def set_lr(optimizer: torch.optim.SGD, lr: float) -> None:
    """Give every group of ``sgd`` its share of a step's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_share"]


def momentum_of(optimizer: torch.optim.SGD, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the momentum buffers by the names of their parameters; empty without momentum."""
    state = optimizer.state
    return {name: state[t]["momentum_buffer"] for name, t in parameters.items() if "momentum_buffer" in state[t]}


def train_step(
    learner: Learner,
    plan: StepPlan,
    x_NCHW: Tensor,
    labels_N: Tensor,
    teacher: Supernet | None = None,
    *,
    step: int = 0,
    wants_stop: bool = False,
    observer: Observer | None = None,
) -> StepResult:
    """Carry out one step of a method's plan, in place.

    The gradient is the sum over the shares, each times its scale, of the mean over the groups of the batch. Only the
    largest subnet updates BatchNorm's running statistics: the slices that smaller subnets would write to are statistics
    of the full model.

    Args:
        learner: what is trained.
        plan: what the method wants of this step.
        x_NCHW: this rank's images of the batch.
        labels_N: their classes, or shares of classes (N, V) where images were mixed.
        teacher: a finished full model, for methods that have one.
        step: counted from 0; dropout is drawn from it and the recipe's seed.
        wants_stop: whether this rank was asked to stop; the sum over the ranks is the record ``stop``.
        observer: is shown the gradient of every share on every group, also of shares whose scale is 0.
    """
    recipe, gradients, ranks = learner.recipe, learner.gradients, learner.ranks
    if plan.resets_momentum:
        for buffer in learner.momentum.values():
            buffer.zero_()
    if plan.sorts_channels:
        learner.supernet.sort_channels(learner.momentum, rings=plan.sorting_rings)
    x_NCHW = x_NCHW.contiguous(memory_format=learner.memory_format)
    group_size = recipe.group_size or len(x_NCHW)
    groups = len(x_NCHW) // group_size
    gradients.flat.zero_()
    if wants_stop:
        gradients.records[RECORDS.index("stop")] = 1
    touched: set[str] = set()
    for index, (x, labels) in enumerate(
        zip(torch.split(x_NCHW, group_size), torch.split(labels_N, group_size), strict=True)
    ):
        # Dropout draws from torch's global state; from a seed of its own each time, it needs no saving.
        number = ranks.rank * groups + index
        torch.manual_seed((recipe.seed * 1_000_003 + step + number * GROUP_SEED) & (2**63 - 1))
        touched |= _one_group(learner, plan, x, labels, teacher, groups * ranks.size, observer)
    ranks.sum(gradients.flat)

    has_statistics = groups * ranks.size > 1 and any(share.role == "largest" for share in plan.shares)
    if has_statistics:
        for name, tensor in learner.supernet.tensors.items():
            if name in gradients.statistics:
                tensor.copy_(gradients.statistics[name])
            elif is_statistic(name):
                tensor.add_(1)  # the number of batches, which counts steps
    for name, parameter in learner.parameters.items():
        # What no subnet of this step used keeps its momentum and is not decayed.
        parameter.grad = gradients.of[name] if name in touched else None
    set_lr(learner.optimizer, plan.lr)
    if recipe.clip_gradient > 0:
        torch.nn.utils.clip_grad_norm_(list(learner.parameters.values()), recipe.clip_gradient)
    learner.optimizer.step()
    records = gradients.records.clone()
    losses: dict[str, Tensor] = {share.role: records[RECORDS.index(f"loss/{share.role}")] for share in plan.shares}
    return StepResult(losses=losses, right=records[RECORDS.index("right")], records=records)


def _one_group(
    learner: Learner,
    plan: StepPlan,
    x_NCHW: Tensor,
    labels_N: Tensor,
    teacher: Supernet | None,
    groups: int,
    observer: Observer | None,
) -> set[str]:
    """Add the gradients, statistics and records of one group of images; return the names of the tensors used."""
    recipe, gradients = learner.recipe, learner.gradients
    touched: set[str] = set()
    first_NV: Tensor | None = None
    soft_NV = teacher_logits(learner, teacher, x_NCHW) if teacher is not None else None
    average = 1 / sum(share.scale != 0 for share in plan.shares) if recipe.gradient_average else 1.0
    for index, share in enumerate(plan.shares):
        corner = gradients.corner(share.arch, keep=share.role != "random")
        statistics = {name: learner.supernet.tensors[name] for name in corner.statistics}
        if groups > 1:
            statistics = {name: tensor.clone() for name, tensor in statistics.items()}
        with torch.autocast(x_NCHW.device.type, learner.autocast, enabled=learner.autocast is not None):
            logits_NV = run_share(learner.supernet.space, share, {**corner.leaves, **statistics}, x_NCHW).float()
        if first_NV is None:
            first_NV = logits_NV.detach()
        taught_by = first_NV if share.loss == "distill" else soft_NV
        loss = share_loss(share, logits_NV, labels_N, taught_by, recipe)
        found = torch.autograd.grad(loss, list(corner.leaves.values()), allow_unused=True)
        if observer is not None:
            observer(index, corner, found, 1 / groups)
        if share.scale == 0:
            continue  # It was only looked at.
        touched |= gradients.add(corner, found, share.scale * average / groups)
        if share.role == "largest" and groups > 1:
            for name, sums in gradients.statistics.items():
                sums.add_(statistics[name], alpha=1 / groups)
        alike = sum(other.role == share.role for other in plan.shares)
        gradients.records[RECORDS.index(f"loss/{share.role}")].add_(loss.detach(), alpha=1 / (groups * alike))
    assert first_NV is not None, "a step has at least one share"
    gradients.records[RECORDS.index("right")] += (first_NV.argmax(1) == main_labels(labels_N)).sum()
    return touched


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
    weight = 1.0 if share.loss == "teacher" else recipe.label_weight
    if weight == 0:
        return distilled
    return distilled + weight * label_loss(logits_NV, labels_N, smoothing=recipe.label_smoothing)


@torch.no_grad()
def teacher_logits(learner: Learner, teacher: Supernet, x_NCHW: Tensor) -> Tensor:
    """Return the logits of a finished full model, shape (N, classes); it normalises with the batch, as students do."""
    share = Share(ArchSpec.largest(teacher.space, x_NCHW.shape[-1]), "random", "labels", 1.0, 0.0)
    with torch.autocast(x_NCHW.device.type, learner.autocast, enabled=learner.autocast is not None):
        return run_share(teacher.space, share, teacher.tensors, x_NCHW).float()


def run_share(space: SearchSpace, share: Share, tensors: Mapping[str, Tensor], x_NCHW: Tensor) -> Tensor:
    """Return the training-mode logits of one subnet, shape (N, classes).

    The largest updates the statistics among ``tensors`` in place; others normalise with the batch and keep none.
    """
    weights = slice_weights(space, tensors, share.arch)
    module = training_skeleton(space, share.arch, share.dropout, share.role == "largest")
    return call_with(module, weights, x_NCHW)


@functools.lru_cache(maxsize=64)
def training_skeleton(space: SearchSpace, arch: ArchSpec, dropout: float, keeps_statistics: bool) -> Network:
    """Return the weightless network of a subnet in training mode; the largest and the smallest are met every step."""
    return skeleton(space, arch, is_training=True, dropout=dropout, keeps_statistics=keeps_statistics)
