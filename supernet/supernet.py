"""The supernet: one set of tensors, from which every subnet's weights are sliced.

Relies on ``slicing.py`` for the rule and on ``network.py`` for the plain networks that run on its result.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import torch
from torch import Tensor
from torch.func import functional_call

from deps.ground.errors import CheckpointError
from deps.supernet.arch import ArchSpec
from deps.supernet.network import Network, skeleton, with_weights
from deps.supernet.pieces import InvertedPlan
from deps.supernet.plan import parameter_shapes, plan
from deps.supernet.slicing import matrix_name, slice_weights
from deps.supernet.sorting import channel_orders, reorder
from deps.supernet.space import SearchSpace

if TYPE_CHECKING:
    from typing_extensions import Self

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def is_statistic(name: str) -> bool:
    """Whether a tensor of this name is kept by BatchNorm rather than trained."""
    return name.rpartition(".")[2] in STATISTICS


def supernet_shapes(space: SearchSpace, *, has_matrices: bool = True) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a supernet: those of its largest subnet, and the kernel matrices."""
    largest = plan(space, ArchSpec.largest(space))
    shapes = parameter_shapes(largest)
    for piece in largest.pieces():
        if has_matrices and isinstance(piece, InvertedPlan):
            sizes = piece.elastic_kernels[::-1]
            for larger, smaller in itertools.pairwise(sizes):
                shapes[matrix_name(piece.depthwise.name, larger, smaller)] = (smaller**2, smaller**2)
    return shapes


InitialWeights: TypeAlias = Literal["fan-out", "fan-in"]


class Supernet:
    """One set of weights that contains all subnets of a search space."""

    space: SearchSpace
    tensors: dict[str, Tensor]
    """Every tensor by name: weights, kernel matrices and BatchNorm's statistics."""

    provenance: dict[str, Any]
    """Where the weights came from, as plain JSON data."""

    def __init__(
        self, space: SearchSpace, tensors: Mapping[str, Tensor], *, provenance: dict[str, Any] | None = None
    ) -> None:
        has_matrices = any(".matrix_" in name for name in tensors)
        expected = supernet_shapes(space, has_matrices=has_matrices)
        check_shapes(space, expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        self.space = space
        self.tensors = {name: tensors[name] for name in expected}
        self.provenance = provenance or {}

    @classmethod
    def create(
        cls, space: SearchSpace, *, seed: int = 0, has_matrices: bool = True, initial: InitialWeights = "fan-out"
    ) -> Self:
        """Return a freshly initialised supernet; the same seed gives the same weights.

        Convolutions are drawn from a normal distribution, the classifier uniformly within 1/√features, biases are 0,
        and kernel matrices are identities.

        Args:
            space: the search space.
            seed: seed of the weights.
            has_matrices: whether smaller kernels pass through trained matrices; otherwise they are cropped only.
            initial: variance of convolutions. fan-out, He's 2 / (k² · output channels of a group), keeps the scale of
                the signal even where BatchNorm has no statistics yet; fan-in, torch's own 1 / (3 · k² · input channels
                of a group), is what short trainings want: BatchNorm takes the scale back, and the large weights that
                fan-out gives projections turn more slowly at the same rate.
        """
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, shape in supernet_shapes(space, has_matrices=has_matrices).items():
            tensors[name] = _initial(name, shape, generator, initial)
        return cls(space, tensors)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The trained tensors, by name."""
        return {name: tensor for name, tensor in self.tensors.items() if not is_statistic(name)}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Supernet:
        """Return this supernet on another device or with another floating-point type."""
        tensors = {
            name: t.to(device=device, dtype=dtype if t.is_floating_point() else None)
            for name, t in self.tensors.items()
        }
        return Supernet(self.space, tensors, provenance=self.provenance)

    def subnet(self, arch: ArchSpec) -> Network:
        """Return one subnet as a plain module in evaluation mode, with its own copy of the weights.

        Its BatchNorm statistics are slices of the largest subnet's: recalibrate them before use.

        Raises:
            ArchError: ``arch`` is not of this space.
        """
        weights = {
            name: weight.detach().clone(memory_format=torch.contiguous_format)
            for name, weight in slice_weights(self.space, self.tensors, arch).items()
        }
        return with_weights(_evaluation_skeleton(self.space, arch), weights)

    def forward(self, x_NCHW: Tensor, arch: ArchSpec) -> Tensor:
        """Return the logits of one subnet, shape (N, classes), with the sliced statistics; differentiable.

        Raises:
            ArchError: ``arch`` is not of this space.
        """
        module = _evaluation_skeleton(self.space, arch)
        weights = slice_weights(self.space, self.tensors, arch)
        return cast(Tensor, functional_call(module, weights, (x_NCHW,), strict=True))

    __call__ = forward

    def sort_channels(self, *companions: MutableMapping[str, Tensor], rings: int = 0) -> None:
        """Order the middle channels of every block by importance, in place; the largest subnet's function stays.

        Args:
            companions: tensors that belong to the weights by name, such as momentum buffers; they are ordered alike.
            rings: how many of the supported smaller widths stay sets of channels as they are (0 sorts all at once).

        Source: channel importance of once-for-all, which is the sum of absolute weights of the projection.
        """
        for order in channel_orders(self.space, self.tensors, rings=rings):
            for tensors in (self.tensors, *companions):
                reorder(tensors, order)

    @classmethod
    def load(cls, path: Path | str, *, space: SearchSpace | None = None) -> Supernet:
        """Return the supernet saved in a folder, or in a published once-for-all file.

        Raises:
            CheckpointError: the file does not hold a supernet of ``space``; the message names the key.
            FileError: the file is missing or damaged.
        """
        from deps.supernet.checkpoint import load

        return load(Path(path), space=space)

    def save(self, folder: Path | str) -> None:
        """Write ``supernet.safetensors`` and ``supernet.json`` into ``folder``, each whole or not at all.

        Raises:
            FileError: the disk is full, or the place cannot be written.
        """
        from deps.supernet.checkpoint import save

        save(self, Path(folder))


def check_shapes(
    space: SearchSpace, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Complain about the first tensor that is missing, unknown or of another shape.

    Raises:
        CheckpointError: the tensors are not those of a supernet of ``space``.
    """

    def some(names: Iterable[str]) -> str:
        listed = list(names)
        return f"{listed[0]!r}" + (f" and {len(listed) - 1} more" if len(listed) > 1 else "")

    if missing := [name for name in expected if name not in found]:
        raise CheckpointError(f"the weights lack {some(missing)}, which a supernet of {space.name} has")
    if foreign := [name for name in found if name not in expected]:
        raise CheckpointError(f"the weights hold {some(foreign)}, which a supernet of {space.name} does not have")
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"{name!r} has shape {list(found[name])}; a supernet of {space.name} has {list(shape)} there"
            )


def _initial(name: str, shape: tuple[int, ...], generator: torch.Generator, initial: InitialWeights) -> Tensor:
    part = name.rpartition(".")[2]
    if part == "num_batches_tracked":
        return torch.zeros((), dtype=torch.long)
    if part.startswith("matrix_"):
        return torch.eye(shape[0])
    if len(shape) == 4:
        groups, pixels = shape[0] if shape[1] == 1 else 1, shape[2] * shape[3]
        fan_out, fan_in = shape[0] // groups * pixels, shape[1] * pixels
        variance = 2 / fan_out if initial == "fan-out" else 1 / (3 * fan_in)
        return torch.randn(shape, generator=generator) * math.sqrt(variance)
    if len(shape) == 2:
        return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(shape[1])
    is_scale = name.endswith((".norm.weight", ".running_var"))
    return torch.ones(shape) if is_scale else torch.zeros(shape)


@functools.lru_cache(maxsize=64)
def _evaluation_skeleton(space: SearchSpace, arch: ArchSpec) -> Network:
    return skeleton(space, arch, is_training=False)
