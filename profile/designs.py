"""Which whole nets to look at: designs that visit every piece a space can have, and nets that check what was learned.

A *design* gives (kernel, expand) pairs to block positions as a Latin square does: net n gives position b the pair
n + 4b, counted round. Nine nets visit every pair at every position of MobileNetV3. Elastic widths follow two further
digits of n in turn, so that every pair of neighbouring widths is met with every pair too. Relies on ``sampling.py``.
"""

from __future__ import annotations

import itertools

import numpy as np

from deps.supernet.plan import plan
from deps.supernet.sampling import Genes, canonical, columns, decode, distinct, random_genes
from deps.supernet.space import PoolSpec, SearchSpace

# Neighbouring positions are 4 pairs apart, which has no divisor in common with 9: no net is all large or all small.
_SHIFT = 4


def chain_widths(space: SearchSpace) -> tuple[tuple[int, ...], ...]:
    """Return the width choices along the chain up to the last stage, also where there is only one."""
    stem = [spec.widths for spec in space.stem if not isinstance(spec, PoolSpec) and spec.widths]
    return (*stem, *[stage.widths for stage in space.stages])


def designed_genes(space: SearchSpace, resolution: int) -> Genes:
    """Return the designed nets at one resolution, each as deep as the space allows.

    A piece depends on its kernel and expand, and on the widths before and after it; every combination of these stands
    at every position of at least one net.
    """
    where, chain = columns(space), chain_widths(space)
    evens = max((len(widths) for widths in chain[0::2]), default=1)
    odds = max((len(widths) for widths in chain[1::2]), default=1)
    pairs = max(len(stage.kernels) * len(stage.expands) for stage in space.stages)

    n = np.arange(evens * odds * pairs)
    even_digit, odd_digit, pair_digit = n % evens, n // evens % odds, n // (evens * odds)
    genes = np.zeros((len(n), len(where.choices)), np.uint8)
    genes[:, where.depths] = where.choices[where.depths] - 1
    genes[:, where.resolution] = space.resolutions.index(resolution)
    elastic = [position for position, widths in enumerate(chain) if len(widths) > 1]
    for column, position in enumerate(elastic, start=where.widths.start):
        genes[:, column] = (odd_digit if position % 2 else even_digit) % len(chain[position])
    for block, (s, _) in enumerate(space.blocks):
        kernels, expands = len(space.stages[s].kernels), len(space.stages[s].expands)
        pair = (pair_digit + _SHIFT * block) % (kernels * expands)
        genes[:, where.kernels.start + block] = pair % kernels
        genes[:, where.expands.start + block] = pair // kernels
    return genes


def corner_genes(space: SearchSpace, resolution: int) -> Genes:
    """Return the nets that have each kind of axis at one of its ends: least or largest kernels, expands and so on."""
    where = columns(space)
    kinds = [where.kernels, where.expands, where.depths, where.widths]
    kinds = [kind for kind in kinds if (where.choices[kind] > 1).any()]
    rows = np.zeros((2 ** len(kinds), len(where.choices)), np.uint8)
    rows[:, where.resolution] = space.resolutions.index(resolution)
    for row, ends in zip(rows, itertools.product((0, 1), repeat=len(kinds)), strict=True):
        for kind, end in zip(kinds, ends, strict=True):
            row[kind] = (where.choices[kind] - 1) * end
    return distinct(canonical(space, rows))


def checking_genes(
    space: SearchSpace, resolution: int, rng: np.random.Generator, *, anchors: int, held_out: int
) -> tuple[Genes, Genes]:
    """Return the nets that a table is fitted on and those that it is judged by; no net is in both.

    The anchors are spread evenly over multiply-adds from nearly the smallest to nearly the largest net; the held-out
    nets are the corners of the space and random nets. A small space may have fewer.

    Args:
        space: the search space.
        resolution: of all nets.
        rng: source of randomness.
        anchors: how many nets to fit on.
        held_out: how many random nets to judge by, besides the corners.
    """
    corners = corner_genes(space, resolution)
    random = random_genes(space, 4 * (anchors + held_out), rng)
    leaning = _leaning_genes(space, 8 * anchors, rng)
    drawn = np.concatenate([random, leaning])
    drawn[:, columns(space).resolution] = space.resolutions.index(resolution)
    fresh = distinct(np.concatenate([corners, canonical(space, drawn)]))[len(corners) :]
    judges, rest = fresh[:held_out], fresh[held_out:]
    macs = np.array([sum(piece.macs for piece in plan(space, arch).pieces()) for arch in decode(space, rest)], float)
    picks: list[int] = []
    for wanted in np.linspace(macs.min(), macs.max(), min(anchors, len(rest))) if len(rest) else ():
        distance = np.abs(macs - wanted)
        distance[picks] = np.inf
        picks.append(int(distance.argmin()))
    by_size = sorted(picks, key=lambda pick: macs[pick])
    return rest[by_size], np.concatenate([corners, judges])


def _leaning_genes(space: SearchSpace, count: int, rng: np.random.Generator) -> Genes:
    """Return nets that lean to one end of the space: about half of their genes are the least or the largest choice."""
    where = columns(space)
    random = random_genes(space, count, rng)
    lean = rng.random((count, 1))
    ends = (where.choices - 1) * (rng.random(random.shape) < lean)
    return canonical(space, np.where(rng.random(random.shape) < 0.5, ends, random).astype(np.uint8))
