"""Channel sorting: put the important middle channels first, so that narrow subnets keep them.

Relies on one fact: the same permutation of a block's middle channels in every tensor that has them leaves the largest
subnet's function unchanged. Source: once-for-all (importance by the projection's absolute weights).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deps.supernet.arch import ArchSpec
from deps.supernet.pieces import BottleneckPlan, ConvPlan, InvertedPlan, SqueezePlan
from deps.supernet.plan import plan
from deps.supernet.space import SearchSpace, round_channels


@dataclass(frozen=True, slots=True)
class ChannelOrder:
    """A permutation and the (tensor name, dimension) pairs it applies to."""

    index: Tensor
    places: tuple[tuple[str, int], ...]


def reorder(tensors: MutableMapping[str, Tensor], order: ChannelOrder) -> None:
    """Apply a permutation in place; tensors that are absent (as momentum of statistics is) are passed over."""
    for name, dim in order.places:
        tensor = tensors.get(name)
        if tensor is not None:
            with torch.no_grad():
                tensor.copy_(tensor.index_select(dim, order.index.to(tensor.device)))


def channel_orders(space: SearchSpace, tensors: Mapping[str, Tensor], *, rings: int = 0) -> Iterator[ChannelOrder]:
    """Yield the permutations that sort every elastic block; apply each before asking for the next.

    Args:
        space: the search space.
        tensors: the supernet's tensors, which importance is read from.
        rings: how many of the smaller supported widths stay as they are as sets.
    """
    for s, stage in enumerate(plan(space, ArchSpec.largest(space)).stages):
        spec = space.stages[s]
        for block in stage:
            channels_in = next(block.convolutions()).channels_in
            supported = [spec.middle(channels_in, spec.widths[-1], expand) for expand in spec.expands]
            if isinstance(block, InvertedPlan) and block.expand is None:
                continue  # its middle channels are those that come in, and other blocks rely on their order
            if isinstance(block, InvertedPlan):
                yield from _inverted_orders(block, tensors, supported, rings)
            else:
                yield from _bottleneck_orders(block, tensors, supported, rings)


def _inverted_orders(
    block: InvertedPlan, tensors: Mapping[str, Tensor], supported: list[int], rings: int
) -> Iterator[ChannelOrder]:
    assert block.expand is not None
    places = [(f"{block.project.name}.conv.weight", 1), *_outputs(block.depthwise), *_outputs(block.expand)]
    if block.squeeze:
        squeeze = block.squeeze.name
        places += [(f"{squeeze}.expand.weight", 0), (f"{squeeze}.expand.bias", 0), (f"{squeeze}.reduce.weight", 1)]
    importance = tensors[f"{block.project.name}.conv.weight"].detach().abs().sum((0, 2, 3))
    yield ChannelOrder(sorted_within_rings(importance, supported, rings), tuple(places))
    if block.squeeze:
        yield _squeeze_order(block.squeeze, tensors, [round_channels(width // 4) for width in supported], rings)


def _squeeze_order(
    squeeze: SqueezePlan, tensors: Mapping[str, Tensor], supported: list[int], rings: int
) -> ChannelOrder:
    importance = tensors[f"{squeeze.name}.expand.weight"].detach().abs().sum((0, 2, 3))
    places = (
        (f"{squeeze.name}.expand.weight", 1),
        (f"{squeeze.name}.reduce.weight", 0),
        (f"{squeeze.name}.reduce.bias", 0),
    )
    return ChannelOrder(sorted_within_rings(importance, supported, rings), places)


def _bottleneck_orders(
    block: BottleneckPlan, tensors: Mapping[str, Tensor], supported: list[int], rings: int
) -> Iterator[ChannelOrder]:
    for before, after in ((block.spatial, block.restore), (block.reduce, block.spatial)):
        importance = tensors[f"{after.name}.conv.weight"].detach().abs().sum((0, 2, 3))
        index = sorted_within_rings(importance, supported, rings)
        yield ChannelOrder(index, ((f"{after.name}.conv.weight", 1), *_outputs(before)))


def _outputs(conv: ConvPlan) -> list[tuple[str, int]]:
    """Return where the output channels of a convolution stand, its BatchNorm included."""
    parts = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    return [(f"{conv.name}.conv.weight", 0), *[(f"{conv.name}.{part}", 0) for part in parts]]


def sorted_within_rings(importance: Tensor, supported: list[int], rings: int) -> Tensor:
    """Return the order of channels by descending importance, sorted only within rings.

    The channels beyond each of the ``rings`` next-smaller supported widths form a ring that stays behind the ones
    before it, so that a width which was already trained keeps the channels it had. The hidden units of a
    squeeze-excite are kept in the same way, because a narrow subnet uses the first of them only.

    Args:
        importance: one number a channel, shape (channels,).
        supported: the widths that subnets may have, ascending; the last is all channels.
        rings: how many of the smaller widths bound a ring.
    """
    bounds = [0, *(supported[:-1][::-1][:rings][::-1]), len(importance)]
    parts = [
        start + torch.argsort(importance[start:end], descending=True, stable=True)
        for start, end in itertools.pairwise(bounds)
    ]
    return torch.cat(parts)
