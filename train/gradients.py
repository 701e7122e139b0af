"""The gradient of a supernet as one flat tensor, into which each subnet adds its corner.

Relies on a subnet's weights being leading corners of the supernet's: a leaf is the corner of a tensor, and its gradient
goes into the same corner of the flat buffer. Nothing of the supernet's size is made for a small subnet, and ranks
exchange one tensor a step.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deps.supernet.arch import ArchSpec
from deps.supernet.pieces import InvertedPlan
from deps.supernet.plan import parameter_shapes, plan
from deps.supernet.slicing import leading_corner, matrix_name
from deps.supernet.space import SearchSpace
from deps.supernet.supernet import Supernet, is_statistic

RECORDS = ("loss/largest", "loss/smallest", "loss/random", "right", "stop")
"""Numbers of a step that travel with the gradient, so that ranks exchange nothing else."""


class Corner(NamedTuple):
    """What one subnet takes of the supernet."""

    leaves: dict[str, Tensor]
    """Corners of the trained tensors, which gradients are asked for; they share storage with the supernet."""

    targets: list[Tensor]
    """Where their gradients are added, in the same order."""

    statistics: tuple[str, ...]
    """Names of BatchNorm's tensors."""


class Gradients:
    """One flat float32 tensor: the gradient, then running statistics, then records; and views of its parts by name."""

    def __init__(self, supernet: Supernet) -> None:
        self.supernet = supernet
        trained = supernet.parameters
        statistics = {name: t for name, t in supernet.tensors.items() if is_statistic(name) and t.is_floating_point()}
        first = next(iter(trained.values()))
        lengths = [sum(t.numel() for t in group.values()) for group in (trained, statistics)]
        self.flat = torch.zeros(sum(lengths) + len(RECORDS), device=first.device)
        self.of = _views(self.flat, trained)
        """Gradient of each trained tensor."""

        self.statistics = _views(self.flat[lengths[0] :], statistics)
        """Running statistics of the full model, summed over groups of images."""

        self.records = self.flat[sum(lengths) :]
        self._kept: dict[ArchSpec, Corner] = {}

    def corner(self, arch: ArchSpec, *, keep: bool = False) -> Corner:
        """Return the leaves of a subnet.

        Args:
            arch: the subnet.
            keep: whether it is asked for again and again, as the largest and the smallest are.
        """
        found = self._kept.get(arch)
        if found is None:
            shapes, statistics = leaf_shapes(self.supernet.space, arch)
            tensors = self.supernet.tensors
            present = [(name, shape) for name, shape in shapes if name in tensors]
            leaves = {name: leading_corner(tensors[name].detach(), shape).requires_grad_() for name, shape in present}
            found = Corner(leaves, [leading_corner(self.of[name], shape) for name, shape in present], statistics)
            if keep:
                self._kept[arch] = found
        return found

    def add(self, corner: Corner, gradients: Sequence[Tensor | None], scale: float) -> set[str]:
        """Add the gradients of a subnet's leaves, each times ``scale``; return the names of those there were."""
        there = [(t, g) for t, g in zip(corner.targets, gradients, strict=True) if g is not None]
        # One kernel for all tensors; torch's own optimizers rest on it.
        torch._foreach_add_(  # pyright: ignore[reportPrivateImportUsage]
            [t for t, _ in there], [g for _, g in there], alpha=scale
        )
        return {name for name, g in zip(corner.leaves, gradients, strict=True) if g is not None}


def _views(flat: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    views, start = {}, 0
    for name, tensor in tensors.items():
        views[name] = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    return views


@functools.lru_cache(maxsize=64)
def leaf_shapes(space: SearchSpace, arch: ArchSpec) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], tuple[str, ...]]:
    """Return the corners of trained tensors that a subnet depends on, and the names of its statistics.

    A small kernel is made of the whole of a larger one and of matrices, so these are what it depends on.
    """
    subnet = plan(space, arch)
    whole: dict[str, int] = {}
    matrices: list[tuple[str, tuple[int, ...]]] = []
    for piece in subnet.pieces():
        if isinstance(piece, InvertedPlan) and len(piece.elastic_kernels) > 1:
            name, sizes = piece.depthwise.name, sorted(piece.elastic_kernels, reverse=True)
            whole[f"{name}.conv.weight"] = sizes[0]
            steps = [size for size in sizes if size >= piece.depthwise.kernel]
            for larger, smaller in itertools.pairwise(steps):
                matrices.append((matrix_name(name, larger, smaller), (smaller**2, smaller**2)))
    leaves, statistics = [], []
    for name, shape in parameter_shapes(subnet).items():
        if is_statistic(name):
            statistics.append(name)
        else:
            leaves.append((name, (*shape[:2], whole[name], whole[name]) if name in whole else shape))
    return (*leaves, *matrices), tuple(statistics)
