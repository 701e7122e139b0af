"""Architectures in bulk: random, mutated, crossed, enumerated; a population is an array with one row a subnet.

A *gene* is the index of a choice on one axis; a row holds the genes of ``space.axes`` in order. Rows are canonical:
the kernel and expand genes of a left-out block are 0. Relies on numpy alone.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deps.ground.errors import SpaceError
from deps.supernet.arch import ArchSpec
from deps.supernet.space import SearchSpace

Genes: TypeAlias = NDArray[np.uint8]
"""Shape (architectures, axes)."""


class _Columns:
    """Where each kind of axis stands in a row, and how many choices it has."""

    def __init__(self, space: SearchSpace) -> None:
        self.choices = np.array([len(axis.choices) for axis in space.axes])
        blocks, depths, widths = len(space.blocks), len(space.depth_choices), len(space.width_choices)
        self.kernels = slice(0, blocks)
        self.expands = slice(blocks, 2 * blocks)
        self.depths = slice(2 * blocks, 2 * blocks + depths)
        self.widths = slice(2 * blocks + depths, 2 * blocks + depths + widths)
        self.resolution = 2 * blocks + depths + widths


@functools.lru_cache(maxsize=64)
def columns(space: SearchSpace) -> _Columns:
    """Return where each kind of axis stands in a row."""
    return _Columns(space)


def active_blocks(space: SearchSpace, genes: Genes) -> NDArray[np.bool_]:
    """Return which blocks each architecture has, shape (architectures, blocks)."""
    where = columns(space)
    active = np.empty((len(genes), len(space.blocks)), np.bool_)
    # Stage by stage and in bytes: a table of the depths of all blocks at once would be many times the genes' size.
    for s, stage in enumerate(space.stages):
        depth = np.array(stage.depths, np.uint8)[genes[:, where.depths.start + space.stage_depth_index(s)]]
        first = space.first_block[s]
        active[:, first : first + stage.max_depth] = np.arange(stage.max_depth, dtype=np.uint8) < depth[:, None]
    return active


def canonical(space: SearchSpace, genes: Genes) -> Genes:
    """Return the rows with the genes of left-out blocks set to 0."""
    where, genes = columns(space), genes.copy()
    active = active_blocks(space, genes)
    genes[:, where.kernels] *= active
    genes[:, where.expands] *= active
    return genes


def encode(space: SearchSpace, archs: list[ArchSpec]) -> Genes:
    """Return one row of genes per architecture.

    Raises:
        ArchError: an architecture is not of this space.
    """
    tables = [{choice: gene for gene, choice in enumerate(axis.choices)} for axis in space.axes]
    rows = np.zeros((len(archs), len(tables)), np.uint8)
    for row, arch in zip(rows, archs, strict=True):
        arch.check(space)
        values = (*arch.kernels, *arch.expands, *arch.depths, *arch.widths, arch.resolution)
        row[:] = [table.get(value, 0) for table, value in zip(tables, values, strict=True)]
    return rows


def decode(space: SearchSpace, genes: Genes) -> list[ArchSpec]:
    """Return the architecture of each row."""
    where, archs = columns(space), []
    for row in genes:
        values: list[Any] = [axis.choices[gene] for axis, gene in zip(space.axes, row, strict=True)]
        archs.append(
            ArchSpec.create(
                space,
                kernels=values[where.kernels],
                expands=values[where.expands],
                depths=values[where.depths],
                widths=values[where.widths],
                resolution=values[where.resolution],
            )
        )
    return archs


def random_genes(
    space: SearchSpace, count: int, rng: np.random.Generator, *, uniform: Literal["axes", "subnets"] = "axes"
) -> Genes:
    """Return ``count`` random rows.

    Args:
        space: the search space.
        count: how many rows.
        rng: source of randomness; the same state gives the same rows.
        uniform: ``axes`` draws each choice alike, as the sandwich rule does; ``subnets`` draws each distinct subnet
            alike, which favours depth.
    """
    where = columns(space)
    genes = _uniform_genes(where.choices, count, rng)
    if uniform == "subnets":
        for s, stage in enumerate(space.stages):
            per_block = len(stage.kernels) * len(stage.expands)
            share = np.array([float(per_block) ** (depth - stage.depths[-1]) for depth in stage.depths])
            column = where.depths.start + space.stage_depth_index(s)
            genes[:, column] = rng.choice(len(share), size=count, p=share / share.sum())
    elif uniform != "axes":
        raise SpaceError(f"uniform is {uniform!r}; expected axes or subnets")
    return canonical(space, genes)


def _uniform_genes(choices: NDArray[np.int_], count: int, rng: np.random.Generator) -> Genes:
    """Return rows whose every gene is uniform on its axis; one axis at a time is what numpy is fast at."""
    genes = np.empty((count, len(choices)), np.uint8)
    for column, number in enumerate(choices):
        genes[:, column] = rng.integers(0, number, size=count, dtype=np.uint8)
    return genes


def random_archs(
    space: SearchSpace, count: int, rng: np.random.Generator, *, uniform: Literal["axes", "subnets"] = "axes"
) -> list[ArchSpec]:
    """Return ``count`` random architectures; see ``random_genes``."""
    return decode(space, random_genes(space, count, rng, uniform=uniform))


def mutate(space: SearchSpace, genes: Genes, rng: np.random.Generator, *, probability: float = 0.1) -> Genes:
    """Return the rows with each gene drawn anew with ``probability``."""
    where = columns(space)
    fresh = _uniform_genes(where.choices, len(genes), rng)
    return canonical(space, np.where(rng.random(genes.shape, np.float32) < probability, fresh, genes))


def crossover(space: SearchSpace, mothers: Genes, fathers: Genes, rng: np.random.Generator) -> Genes:
    """Return one child per pair of rows, each gene taken from either parent alike."""
    return canonical(space, np.where(rng.integers(0, 2, mothers.shape, np.bool_), mothers, fathers))


def all_genes(space: SearchSpace, *, limit: int = 2_000_000) -> Genes:
    """Return every distinct subnet of a small space, one row each.

    Raises:
        SpaceError: the space has more than ``limit`` subnets.
    """
    if space.size() > limit:
        raise SpaceError(f"{space.name} has {space.size():.3g} subnets; at most {limit:,} can be listed")
    where = columns(space)
    parts: list[tuple[list[int], Genes]] = []
    for s, stage in enumerate(space.stages):
        blocks = [i for i, (stage_of, _) in enumerate(space.blocks) if stage_of == s]
        depth_column = where.depths.start + space.stage_depth_index(s)
        parts.append(
            ([*blocks, *[len(space.blocks) + b for b in blocks], depth_column], _stage_genes(stage, len(blocks)))
        )
    free = [where.depths.start] if space.has_elastic_stem else []
    free += [*range(where.widths.start, where.widths.stop), where.resolution]
    grid = np.array(list(itertools.product(*[range(where.choices[c]) for c in free])), np.uint8)
    parts.append((free, grid))

    genes = np.zeros((space.size(), len(where.choices)), np.uint8)
    picks = np.unravel_index(np.arange(len(genes)), [len(rows) for _, rows in parts])
    for (at, rows), pick in zip(parts, picks, strict=True):
        genes[:, at] = rows[pick]
    return genes


def _stage_genes(stage: Any, blocks: int) -> Genes:
    """Return all kernels, expands and the depth of one stage, shape (choices, 2 * blocks + 1)."""
    rows = []
    for gene, depth in enumerate(stage.depths):
        for kernels in itertools.product(range(len(stage.kernels)), repeat=depth):
            for expands in itertools.product(range(len(stage.expands)), repeat=depth):
                rest = (0,) * (blocks - depth)
                rows.append((*kernels, *rest, *expands, *rest, gene))
    return np.array(rows, np.uint8)


def one_hot(space: SearchSpace, genes: Genes) -> NDArray[np.float64]:
    """Return features for regression: one column a choice of each axis with several; left-out blocks are all zero."""
    where, active = columns(space), active_blocks(space, genes)
    several = [(column, count) for column, count in enumerate(where.choices) if count > 1]
    # Feature by feature: each is a contiguous column here, and each axis a contiguous row there.
    features = np.zeros((len(genes), sum(count for _, count in several)), order="F")
    gene_of, is_active = np.ascontiguousarray(genes.T), np.ascontiguousarray(active.T)
    start = 0
    for column, count in several:
        for choice in range(count):
            hot = gene_of[column] == choice
            if column < where.expands.stop:
                hot &= is_active[column % len(space.blocks)]
            features[:, start + choice] = hot
        start += count
    return features


def distinct(genes: Genes) -> Genes:
    """Return the rows without repetition, in the order of their first appearance."""
    _, first = np.unique(genes, axis=0, return_index=True)
    return genes[np.sort(first)]


def neighbours(space: SearchSpace, row: Genes) -> Iterator[Genes]:
    """Yield every canonical row that differs from ``row`` in one gene, shape (axes,)."""
    for column, count in enumerate(columns(space).choices):
        for gene in range(count):
            if gene != row[column]:
                other = row.copy()
                other[column] = gene
                changed = canonical(space, other[None])[0]
                if not np.array_equal(changed, row):
                    yield changed
