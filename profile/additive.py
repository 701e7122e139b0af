"""Costs that are sums or maxima over the pieces of a net: tabulated once, then gathered for millions of nets.

A *slot* is a place in the chain where a piece stands; few genes decide which. The pieces are taken from the plans of
the designed nets, which visit every choice of every slot: no formula stands here, so none can disagree with
``plan.py``. Relies on numpy alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deps.ground.errors import ArchError, SpaceError
from deps.profile.designs import chain_widths, designed_genes
from deps.supernet.pieces import Piece
from deps.supernet.plan import plan
from deps.supernet.sampling import Genes, columns, decode
from deps.supernet.space import ConvSpec, PoolSpec, SearchSpace

CHUNK = 1 << 15
"""Rows handled at once, so that what one step leaves for the next stays in the cache."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in the chain of pieces, and the genes that decide which piece stands there."""

    name: str
    """The name of the pieces that stand there, e.g. ``stages.2.1``."""

    columns: tuple[int, ...]
    """Columns of the genes that decide the piece, as digits of its number; the first counts most."""

    radix: tuple[int, ...]
    """How many choices each of these columns has."""

    pieces: tuple[Piece, ...]
    """The piece of each number."""

    depth_column: int | None
    """The column that may leave the slot out; None where it is always there."""

    depth_gene: int
    """The smallest gene of that column with which the slot is there."""

    def numbers(self, genes: Genes) -> NDArray[np.intp]:
        """Return for each row the number of its piece plus one, or 0 where the slot is left out."""
        number = _digits_joined(genes, self.columns, self.radix)
        number += 1
        if self.depth_column is not None:
            number *= genes[:, self.depth_column] >= self.depth_gene
        return number


def _digits_joined(genes: Genes, deciding: tuple[int, ...], radix: tuple[int, ...]) -> NDArray[np.intp]:
    """Return for each row the number whose digits are the genes of some columns."""
    number = np.zeros(len(genes), np.intp)
    for column, choices in zip(deciding, radix, strict=True):
        number *= choices
        number += genes[:, column]
    return number


@functools.lru_cache(maxsize=32)
def slots(space: SearchSpace) -> tuple[Slot, ...]:
    """Return the slots of a space in the order of the data's flow, each with all of its pieces."""
    genes = np.concatenate([designed_genes(space, resolution) for resolution in space.resolutions])
    chains = [{piece.name: piece for piece in plan(space, arch).pieces()} for arch in decode(space, genes)]
    return tuple(_filled(space, name, genes, [chain[name] for chain in chains]) for name in chains[0])


def _filled(space: SearchSpace, name: str, genes: Genes, seen: list[Piece]) -> Slot:
    """Return the slot called ``name``; ``seen`` are the pieces that stood there in the nets of ``genes``."""
    where = columns(space)
    deciding, depth_column, depth_gene = _deciding_columns(space, name)
    deciding = tuple(column for column in deciding if where.choices[column] > 1)
    radix = tuple(int(where.choices[column]) for column in deciding)
    numbers = _digits_joined(genes, deciding, radix).tolist()
    pieces: dict[int, Piece] = {}
    for number, piece in zip(numbers, seen, strict=True):
        assert pieces.setdefault(number, piece) == piece, f"{name} depends on more genes than {deciding}"
    assert len(pieces) == np.prod(radix, dtype=int), f"the designs do not visit every choice of {name}"
    return Slot(name, deciding, radix, tuple(pieces[i] for i in range(len(pieces))), depth_column, depth_gene)


def _deciding_columns(space: SearchSpace, name: str) -> tuple[tuple[int, ...], int | None, int]:
    """Return which columns decide the piece called ``name``, and with which depth column and gene it is there."""
    where = columns(space)
    part, *index = name.split(".")
    stem_widths = len(chain_widths(space)) - len(space.stages)
    if part == "stem":
        spec, before = space.stem[int(index[0])], space.stem[: int(index[0]) + 1]
        last = sum(not isinstance(other, PoolSpec) and bool(other.widths) for other in before) - 1
        around = _width_columns(space, last - 1, last)
        is_optional = isinstance(spec, ConvSpec) and spec.is_optional
        return (where.resolution, *around), where.depths.start if is_optional else None, int(is_optional)
    if part == "stages":
        stage, i = int(index[0]), int(index[1])
        block, last = space.first_block[stage] + i, stem_widths + stage
        around = _width_columns(space, last - 1, last) if i == 0 else _width_columns(space, last)
        depth_gene = sum(depth <= i for depth in space.stages[stage].depths)
        depth_column = where.depths.start + space.stage_depth_index(stage)
        deciding = (where.resolution, *around, where.kernels.start + block, where.expands.start + block)
        return deciding, depth_column if depth_gene else None, depth_gene
    return (where.resolution, *_width_columns(space, len(chain_widths(space)) - 1)), None, 0


def _width_columns(space: SearchSpace, *positions: int) -> tuple[int, ...]:
    """Return the columns of the elastic widths among some positions of the chain."""
    elastic = [position for position, widths in enumerate(chain_widths(space)) if len(widths) > 1]
    return tuple(columns(space).widths.start + elastic.index(p) for p in positions if p in elastic)


@dataclass(frozen=True, slots=True)
class CostTable:
    """One cost of every piece of a space, and how the costs of a net's pieces are put together."""

    space: SearchSpace
    values: tuple[NDArray[Any], ...]
    """For each slot the cost of each of its pieces; entry 0 is that of a slot left out, which is 0."""

    reduce: Literal["sum", "max"]

    def __call__(self, genes: Genes) -> NDArray[Any]:
        """Return the cost of each architecture, shape (architectures,)."""
        return evaluate([self], genes)[0]

    def linear_form(self, resolution: int, widths: Sequence[int] = ()) -> LinearForm:
        """Return the cost at one resolution, and one choice of every elastic width, as coefficients of choices.

        Raises:
            ArchError: the resolution or a width is not in the space.
            SpaceError: the cost is not a sum.
        """
        return _linear_form(self, resolution, tuple(widths))


def tabulate(
    space: SearchSpace,
    cost: Callable[[Piece], float],
    *,
    reduce: Literal["sum", "max"] = "sum",
    dtype: type[np.int64] | type[np.float64] = np.int64,
) -> CostTable:
    """Return the table of ``cost`` over all pieces of a space.

    Args:
        space: the search space.
        cost: what one piece costs.
        reduce: whether a net costs the sum of its pieces, or as much as the costliest of them.
        dtype: integers for counts, which stay exact, or floating-point numbers.
    """
    values = tuple(np.array([0, *map(cost, slot.pieces)], dtype) for slot in slots(space))
    return CostTable(space, values, reduce)


def evaluate(tables: Sequence[CostTable], genes: Genes) -> list[NDArray[Any]]:
    """Return each table's cost of each architecture; finding the pieces is done once for all tables.

    Args:
        tables: tables of one space, at least one.
        genes: rows of that space; the kernel and expand genes of left-out blocks do not matter.
    """
    space = tables[0].space
    results: list[NDArray[Any]] = [np.zeros(len(genes), table.values[0].dtype) for table in tables]
    for start in range(0, len(genes), CHUNK):
        rows = slice(start, start + CHUNK)
        part = np.asfortranarray(genes[rows])
        for index, slot in enumerate(slots(space)):
            numbers = slot.numbers(part)
            for table, result in zip(tables, results, strict=True):
                put_together = np.add if table.reduce == "sum" else np.maximum
                put_together(result[rows], table.values[index].take(numbers), out=result[rows])
    return results


@dataclass(frozen=True, slots=True)
class LinearForm:
    """A cost as a constant and one coefficient for each choice: what an exact solver needs.

    A net costs ``constant``, plus ``blocks[b][kernel gene, expand gene]`` for each block b that it has, plus
    ``optional_stem`` where it has the stem's optional convolution.
    """

    constant: float
    blocks: tuple[NDArray[Any], ...]
    """For each block of the deepest net, in the order of ``space.blocks``, an array of shape (kernels, expands)."""

    optional_stem: float
    """0 where the space has no such layer."""


def _linear_form(table: CostTable, resolution: int, widths: tuple[int, ...]) -> LinearForm:
    space, where = table.space, columns(table.space)
    if table.reduce != "sum":
        raise SpaceError("a maximum over pieces has no linear form; expected a cost that is a sum")
    if len(widths) != len(space.width_choices):
        raise ArchError(f"widths has {len(widths)} entries; {space.name} expects {len(space.width_choices)}")
    # The deepest net, so that every slot is there.
    row = np.zeros((1, len(where.choices)), np.uint8)
    row[0, where.depths] = where.choices[where.depths] - 1
    row[0, where.resolution] = _gene(space, "resolution", resolution, space.resolutions)
    for position, (width, choices) in enumerate(zip(widths, space.width_choices, strict=True)):
        row[0, where.widths.start + position] = _gene(space, f"widths[{position}]", width, choices)

    constant, optional_stem = 0.0, 0.0
    blocks: list[NDArray[Any]] = []
    for slot, values in zip(slots(space), table.values, strict=True):
        if slot.name.startswith("stages."):
            block = len(blocks)
            kernels = int(where.choices[where.kernels.start + block])
            expands = int(where.choices[where.expands.start + block])
            grid = np.repeat(row, kernels * expands, axis=0)
            grid[:, where.kernels.start + block] = np.repeat(np.arange(kernels), expands)
            grid[:, where.expands.start + block] = np.tile(np.arange(expands), kernels)
            blocks.append(values[slot.numbers(grid)].reshape(kernels, expands))
        elif slot.depth_column is None:
            constant += float(values[slot.numbers(row)[0]])
        else:
            optional_stem += float(values[slot.numbers(row)[0]])
    return LinearForm(constant, tuple(blocks), optional_stem)


def _gene(space: SearchSpace, axis: str, value: int, choices: tuple[int, ...]) -> int:
    if value not in choices:
        raise ArchError(f"{axis} is {value}; choices in {space.name}: {', '.join(map(str, choices))}")
    return choices.index(value)
