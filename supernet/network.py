"""A subnet as an ordinary module: ``(space, arch) -> nn.Module``, plain layers only.

Relies on ``plan.py`` for what the layers are. Names of parameters are those of the supernet's tensors.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from deps.supernet.arch import ArchSpec
from deps.supernet.blocks import module_of
from deps.supernet.pieces import Piece
from deps.supernet.plan import NetworkPlan, plan
from deps.supernet.space import SearchSpace


class Network(nn.Module):
    """A plain classifier: stem, stages, head, classifier."""

    def __init__(self, subnet: NetworkPlan, make: Callable[[Piece], nn.Module], *, dropout: float = 0.0) -> None:
        super().__init__()

        def chain(pieces: tuple[Piece, ...]) -> nn.Sequential:
            # A left-out optional layer must not shift the names of those after it.
            return nn.Sequential(OrderedDict((piece.name.rpartition(".")[2], make(piece)) for piece in pieces))

        self.stem = chain(subnet.stem)
        self.stages = nn.Sequential(*[chain(stage) for stage in subnet.stages])
        self.head = chain(subnet.head)
        self.dropout = nn.Dropout(dropout)
        self.classifier = make(subnet.classifier)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return logits of shape (N, classes) for images of shape (N, C, resolution, resolution)."""
        features = self.head(self.stages(self.stem(x_NCHW)))
        return cast(Tensor, self.classifier(self.dropout(features)))


def network(space: SearchSpace, arch: ArchSpec, *, dropout: float = 0.0) -> Network:
    """Return the plain network of one subnet, initialised as torch does.

    Raises:
        ArchError: ``arch`` is not of this space.
    """
    make = functools.partial(module_of, eps=space.norm_eps, momentum=space.norm_momentum)
    return Network(plan(space, arch), make, dropout=dropout)


def skeleton(
    space: SearchSpace, arch: ArchSpec, *, is_training: bool, dropout: float = 0.0, keeps_statistics: bool = True
) -> Network:
    """Return a weightless network to be run with ``call_with``, put together from shared blocks.

    Building a module costs more than running a small one, and a training step meets new subnets all the time. A space
    has few distinct blocks, so each is built once and lent to every skeleton: never give a skeleton weights of its own,
    but take a copy that owns them from ``with_weights``.

    Args:
        space: the search space.
        arch: the subnet.
        is_training: whether BatchNorm normalises with the batch, and dropout drops.
        dropout: share of the features that are dropped before the classifier.
        keeps_statistics: whether BatchNorm has running statistics; a subnet that only trains needs none.
    """
    # The layers do not depend on the size of the image, so subnets that differ in it alone borrow the same blocks.
    arch = replace(arch.check(space), resolution=space.resolutions[0])
    make = functools.partial(_lent_module, eps=space.norm_eps, momentum=space.norm_momentum, is_training=is_training)
    make = functools.partial(make, keeps_statistics=keeps_statistics)
    return Network(plan(space, arch), make, dropout=dropout).train(is_training)


@functools.lru_cache(maxsize=16384)
def _lent_module(piece: Piece, eps: float, momentum: float, is_training: bool, keeps_statistics: bool) -> nn.Module:
    with torch.device("meta"):
        module = module_of(piece, eps, momentum).train(is_training)
    if not keeps_statistics:
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.track_running_stats = False
                layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return module


def call_with(lent: Network, weights: Mapping[str, Tensor], x_NCHW: Tensor) -> Tensor:
    """Return the logits of a skeleton with ``weights``, shape (N, classes).

    What ``torch.func.functional_call`` does, without looking for tied weights and checking every name, which takes a
    few milliseconds for a network of 60 layers. Buffers among the weights are changed in place. Weights that the
    skeleton has no place for, such as statistics it does not keep, are passed over.

    Raises:
        KeyError: a weight is missing.
    """
    slots = _slots(lent)
    tensors = [weights[name] for name, _, _ in slots]
    held = [where[key] for _, where, key in slots]
    try:
        for (_, where, key), tensor in zip(slots, tensors, strict=True):
            where[key] = tensor
        return cast(Tensor, lent(x_NCHW))
    finally:
        for (_, where, key), tensor in zip(slots, held, strict=True):
            where[key] = tensor


def _slots(lent: Network) -> list[tuple[str, dict[str, Any], str]]:
    """Return where a skeleton keeps each of its tensors: (name, the dictionary of its layer, the name there)."""
    slots = lent.__dict__.get("_deps_slots")
    if slots is None:
        slots = [
            (f"{prefix}.{key}" if prefix else key, where, key)
            for prefix, layer in lent.named_modules()
            for where in (layer._parameters, layer._buffers)
            for key, tensor in where.items()
            if tensor is not None
        ]
        lent.__dict__["_deps_slots"] = slots
    return cast("list[tuple[str, dict[str, Any], str]]", slots)


def with_weights(lent: Network, weights: Mapping[str, Tensor]) -> Network:
    """Return a copy of a skeleton that owns ``weights``, as a network that was built and loaded in the usual way.

    Copying 200 modules takes a tenth of the time of building them. (Copies share nothing that can be changed: neither
    parameters nor hooks.)

    Raises:
        KeyError: a weight is missing.
    """
    return cast(Network, _copy_with_weights(lent, weights, ""))


def _copy_with_weights(lent: nn.Module, weights: Mapping[str, Tensor], prefix: str) -> nn.Module:
    module = lent.__new__(type(lent))
    # A module is its __dict__; its containers (hooks among them) are the only values in it that can change.
    state = {name: value.copy() if isinstance(value, (dict, set)) else value for name, value in lent.__dict__.items()}
    state["_parameters"] = {
        name: None if parameter is None else nn.Parameter(weights[prefix + name])
        for name, parameter in lent._parameters.items()
    }
    state["_buffers"] = {name: weights[prefix + name] for name in lent._buffers}
    state["_modules"] = {
        name: _copy_with_weights(child, weights, f"{prefix}{name}.")
        for name, child in lent._modules.items()
        if child is not None
    }
    module.__dict__.update(state)
    return module
