"""A subnet as an ordinary module: ``(space, arch) -> nn.Module``, plain layers only.

Relies on ``plan.py`` for what the layers are. Names of parameters are those of the supernet's tensors.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from deps.supernet.arch import ArchSpec
from deps.supernet.blocks import module_of
from deps.supernet.plan import NetworkPlan, Piece, plan
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


def weightless_network(space: SearchSpace, arch: ArchSpec) -> Network:
    """Return the plain network without memory for its weights, which ``load_state_dict(..., assign=True)`` brings."""
    with torch.device("meta"):
        return network(space, arch)


def skeleton(space: SearchSpace, arch: ArchSpec, *, is_training: bool, dropout: float = 0.0) -> Network:
    """Return a weightless network to be run with ``torch.func.functional_call``, put together from shared blocks.

    Building a module costs more than running a small one, and a training step meets new subnets all the time. A space
    has few distinct blocks, so each is built once and lent to every skeleton: never give a skeleton weights of its own.
    """
    make = functools.partial(_lent_module, eps=space.norm_eps, momentum=space.norm_momentum, is_training=is_training)
    return Network(plan(space, arch), make, dropout=dropout).train(is_training)


@functools.lru_cache(maxsize=16384)
def _lent_module(piece: Piece, eps: float, momentum: float, is_training: bool) -> nn.Module:
    with torch.device("meta"):
        return module_of(piece, eps, momentum).train(is_training)
