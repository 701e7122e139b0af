"""Hypothesis strategies: search spaces, shipped and invented, and architectures of a space.

    @given(data=st.data(), space=spaces())
    def test_something_about_every_subnet(space, data):
        arch = data.draw(archs(space))

Every kind of choice that the vocabulary of ``deps.supernet.space`` has is drawn here; a new axis is added here first.
Examples shrink towards few choices, few blocks, narrow layers and the smallest subnet.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

import torch
from hypothesis import strategies as st

from deps.supernet import ArchSpec, ConvSpec, PoolSpec, SearchSpace, StageSpec, Supernet, get_space, space_names
from deps.supernet.space import ACTIVATIONS, Activation

T = TypeVar("T", int, float)

SHIPPED = tuple(get_space(name) for name in space_names())
"""Every space that ships with deps."""

SMALL = tuple(space for space in SHIPPED if space.resolutions[-1] <= 32)
"""Those among them whose images are at most 32 pixels wide."""

WIDTHS = (1, 3, 8, 10, 16, 20, 24)
"""Widths of invented spaces; also odd ones, and ones that are no multiple of eight."""


def shipped_spaces() -> st.SearchStrategy[SearchSpace]:
    """Draw a space that ships with deps."""
    return st.sampled_from(SHIPPED)


def spaces() -> st.SearchStrategy[SearchSpace]:
    """Draw a space: an invented one, small enough to be built and run at once, or one that ships with deps."""
    return invented_spaces() | shipped_spaces()


@st.composite
def invented_spaces(draw: st.DrawFn) -> SearchSpace:
    """Draw a small space in the vocabulary of ours: any mixture of blocks, choices, strides and activations."""
    return SearchSpace(
        name="invented",
        stem=draw(_stems()),
        stages=tuple(draw(st.lists(inverted_stages() | bottleneck_stages(), min_size=1, max_size=3))),
        head=draw(_heads()),
        resolutions=draw(_choices((5, 8, 9, 16), most=2)),
        num_classes=draw(st.integers(1, 5)),
        in_channels=draw(st.sampled_from((1, 3))),
        norm_eps=draw(st.sampled_from((1e-5, 1e-3))),
    )


@st.composite
def inverted_stages(draw: st.DrawFn) -> StageSpec:
    """Draw a stage of inverted blocks."""
    return StageSpec(
        widths=draw(_choices(WIDTHS)),
        depths=draw(_choices((1, 2, 3), most=2)),
        kernels=draw(_choices((1, 3, 5, 7))),
        expands=draw(_choices((0.5, 1, 1.5, 2, 3))),
        stride=draw(st.sampled_from((1, 2))),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        squeeze_excite=draw(st.booleans()),
    )


@st.composite
def bottleneck_stages(draw: st.DrawFn) -> StageSpec:
    """Draw a stage of bottlenecks."""
    return StageSpec(
        block="bottleneck",
        widths=draw(_choices(WIDTHS)),
        depths=draw(_choices((1, 2, 3), most=2)),
        expands=draw(_choices((0.2, 0.5, 1))),
        stride=draw(st.sampled_from((1, 2))),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )


@st.composite
def archs(draw: st.DrawFn, space: SearchSpace) -> ArchSpec:
    """Draw an architecture of ``space``; the smallest and the largest often, since the edges are where things break."""
    edge = draw(st.sampled_from(("smallest", "largest", None, None, None)))
    if edge is not None:
        return ArchSpec.smallest(space) if edge == "smallest" else ArchSpec.largest(space)
    values = iter([draw(st.sampled_from(axis.choices)) for axis in space.axes])

    def take(count: int) -> list[float]:
        return list(itertools.islice(values, count))

    blocks = len(space.blocks)
    return ArchSpec.from_dict(
        space,
        {
            "kernels": take(blocks),
            "expands": take(blocks),
            "depths": take(len(space.depth_choices)),
            "widths": take(len(space.width_choices)),
            "resolution": next(values),
        },
    )


@st.composite
def _stems(draw: st.DrawFn) -> tuple[ConvSpec | PoolSpec | StageSpec, ...]:
    stem: list[ConvSpec | PoolSpec | StageSpec] = [
        ConvSpec(
            widths=draw(_choices(WIDTHS)),
            kernel=draw(st.sampled_from((1, 3, 5))),
            stride=draw(st.sampled_from((1, 2))),
            activation=draw(_activations()),
        )
    ]
    if draw(st.booleans()):
        stem.append(ConvSpec(widths=(), kernel=3, activation=draw(_activations()), is_optional=True))
    if draw(st.booleans()):
        stem.append(PoolSpec(kind="max"))
    if draw(st.booleans()):
        stem.append(StageSpec(widths=draw(_choices(WIDTHS, most=1)), depths=(1,), expands=(draw(_fixed_expands()),)))
    return tuple(stem)


@st.composite
def _heads(draw: st.DrawFn) -> tuple[ConvSpec | PoolSpec, ...]:
    def maybe() -> list[ConvSpec | PoolSpec]:
        return [
            ConvSpec(widths=(draw(st.sampled_from(WIDTHS)),), activation=draw(_activations()), norm=draw(st.booleans()))
            for _ in range(draw(st.integers(0, 1)))
        ]

    return (*maybe(), PoolSpec(kind="mean"), *maybe())


def _fixed_expands() -> st.SearchStrategy[float]:
    return st.sampled_from((1, 2))


def _activations() -> st.SearchStrategy[Activation | None]:
    return st.sampled_from((None, *ACTIVATIONS))


def _choices(among: Sequence[T], *, most: int = 3) -> st.SearchStrategy[tuple[T, ...]]:
    """Draw one to ``most`` distinct choices, ascending."""
    chosen = st.lists(st.sampled_from(among), min_size=1, max_size=most, unique=True)
    return chosen.map(lambda picked: tuple(sorted(picked)))


def lived_in(space: SearchSpace, *, seed: int = 0, has_matrices: bool = True) -> Supernet:
    """Return a supernet whose every tensor is random: statistics, shifts and kernel matrices as after training.

    A fresh supernet has identities where a mistake would show.
    """
    supernet = Supernet.create(space, seed=seed, has_matrices=has_matrices)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, tensor in supernet.tensors.items():
        noise = torch.randn(tensor.shape, generator=generator)
        part = name.rpartition(".")[2]
        if part == "num_batches_tracked":
            tensor += 7
        elif part == "running_var" or name.endswith("norm.weight"):
            tensor *= (0.2 * noise).exp()
        elif part.startswith("matrix_"):
            tensor += 0.3 / tensor.shape[0] ** 0.5 * noise
        elif tensor.dim() == 1:
            tensor += 0.1 * noise
    return supernet
