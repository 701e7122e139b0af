"""An additive model of any objective: one number for each choice, as near to the objective as such a sum can be.

Relies on least squares over random subnets near the budget. A sum is what an exact solver can make large (``milp.py``);
how far it is from the objective is kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deps.extract.search import Function, Limit, Values, excess, in_chunks
from deps.supernet import SearchSpace
from deps.supernet.sampling import Genes, active_blocks, columns, random_genes

SAMPLES_A_NUMBER = 12
"""How many subnets the fit sees for each of its numbers."""

RIDGE = 1e-6
"""Numbers that the sample leaves open (a depth and the blocks it adds say the same) are drawn towards 0."""


@dataclass(frozen=True, eq=False, slots=True)
class AdditiveModel:
    """A score that is a sum: a number for the resolution, one for each depth, one for each block that is there."""

    space: SearchSpace
    resolutions: Values
    """By the gene of the resolution; the constant is in it."""

    depths: tuple[Values, ...]
    """For each entry of ``space.depth_choices``, by its gene."""

    blocks: tuple[NDArray[np.float64], ...]
    """For each block, shape (kernels, expands)."""

    error: float
    """Mean absolute difference from the objective, on subnets that the fit did not see."""

    spread: float
    """The same of who says the mean of all: what a useful error is smaller than."""

    def __call__(self, genes: Genes) -> Values:
        """Return the score of each subnet."""
        where, active = columns(self.space), active_blocks(self.space, genes)
        score = self.resolutions[genes[:, where.resolution]].copy()
        for position, numbers in enumerate(self.depths):
            score += numbers[genes[:, where.depths.start + position]]
        for block, numbers in enumerate(self.blocks):
            kernel, expand = genes[:, where.kernels.start + block], genes[:, where.expands.start + block]
            score += numbers[kernel, expand] * active[:, block]
        return score


def is_additive(space: SearchSpace) -> bool:
    """Whether costs of a space can be sums: an elastic width changes what the blocks around it cost."""
    return not space.width_choices and not space.has_elastic_stem


def fit_additive(
    space: SearchSpace, objective: Function, limits: Sequence[Limit], *, rng: np.random.Generator
) -> AdditiveModel:
    """Return the additive model nearest to an objective, above all among subnets near the limits.

    Args:
        space: a space without elastic widths.
        objective: what to imitate.
        limits: where it matters: half of the subnets that are used are the nearest to the limits of many.
        rng: draws the subnets.
    """
    where = columns(space)
    parts = [len(space.resolutions), *map(len, space.depth_choices)]
    parts += [
        int(where.choices[where.kernels.start + b] * where.choices[where.expands.start + b])
        for b in range(len(space.blocks))
    ]
    count = SAMPLES_A_NUMBER * sum(parts)
    drawn = random_genes(space, 2 * count, rng)
    nearest = count // 2 + np.argsort(np.abs(excess(limits, drawn[count // 2 :])), kind="stable")
    # Half are drawn at large: a choice that is never met near the limits would have no number.
    genes = drawn[np.concatenate([np.arange(count // 2), nearest[: count - count // 2]])][rng.permutation(count)]
    scores = in_chunks(objective, genes)
    # One in eight is kept to learn how far the model is off.
    held = count // 8
    features = _features(space, genes, parts)
    seen, mean = features[held:], float(scores[held:].mean())
    gram = seen.T @ seen
    gram[np.diag_indices_from(gram)] += RIDGE * len(seen)
    numbers = np.asarray(np.linalg.solve(gram, seen.T @ (scores[held:] - mean)), np.float64)
    split = np.split(numbers, np.cumsum(parts)[:-1])
    depths, blocks = split[1 : 1 + len(space.depth_choices)], split[1 + len(space.depth_choices) :]
    shapes = [
        (int(where.choices[where.kernels.start + b]), int(where.choices[where.expands.start + b]))
        for b in range(len(space.blocks))
    ]
    left_out = scores[:held]
    return AdditiveModel(
        space=space,
        resolutions=split[0] + mean,
        depths=tuple(depths),
        blocks=tuple(part.reshape(shape) for part, shape in zip(blocks, shapes, strict=True)),
        error=float(np.abs(features[:held] @ numbers + mean - left_out).mean()),
        spread=float(np.abs(left_out - left_out.mean()).mean()),
    )


def _features(space: SearchSpace, genes: Genes, parts: list[int]) -> NDArray[np.float64]:
    """Return one row a subnet: a 1 for its resolution, each depth, and each block's pair of kernel and expand."""
    where, active = columns(space), active_blocks(space, genes)
    at = np.arange(len(genes))
    features = np.zeros((len(genes), sum(parts)))
    starts = np.cumsum([0, *parts])
    features[at, genes[:, where.resolution]] = 1
    for position in range(len(space.depth_choices)):
        features[at, starts[1 + position] + genes[:, where.depths.start + position]] = 1
    first = 1 + len(space.depth_choices)
    for block in range(len(space.blocks)):
        expands = int(where.choices[where.expands.start + block])
        pair = genes[:, where.kernels.start + block].astype(int) * expands + genes[:, where.expands.start + block]
        features[at, starts[first + block] + pair] = active[:, block]
    return features
