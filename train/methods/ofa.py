"""Once-for-all, progressive shrinking: a teacher, then elastic kernel, depth and expand ratio, one after the other.

Source: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020. Lengths,
subnets a step and the ratios of the phases' learning rates are those of its published code.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from deps.supernet.arch import ArchSpec
from deps.supernet.sampling import Genes, canonical, columns, decode
from deps.supernet.space import SearchSpace
from deps.train.methods.phased import Phase, Phased
from deps.train.recipe import Recipe

ALL = 255


def ofa(space: SearchSpace, recipe: Recipe, steps_per_epoch: int) -> Phased:
    """Return progressive shrinking for a space; the kernel phase is skipped where the kernel is fixed.

    Widths, where a space has them, become elastic together with the expand ratios.
    """

    def draw(kernels: int, depths: int, expands: int) -> functools.partial[ArchSpec]:
        return functools.partial(draw_among_largest, space, kernels=kernels, depths=depths, expands=expands)

    phases = [Phase(name="teacher", epochs=180, rate=1.0, subnets=0)]
    if any(len(stage.kernels) > 1 for stage in space.stages):
        phases.append(Phase(name="kernel", epochs=120, rate=0.96 / 2.6, subnets=1, draw=draw(ALL, 1, 1)))
    phases += [
        Phase(name="depth 1", epochs=25, rate=0.08 / 2.6, subnets=2, draw=draw(ALL, 2, 1)),
        Phase(name="depth 2", epochs=120, rate=0.24 / 2.6, subnets=2, draw=draw(ALL, ALL, 1)),
        Phase(name="expand 1", epochs=25, rate=0.08 / 2.6, subnets=4, draw=draw(ALL, ALL, 2), sorts_channels=True),
        Phase(
            name="expand 2",
            epochs=120,
            rate=0.24 / 2.6,
            subnets=4,
            draw=draw(ALL, ALL, ALL),
            sorts_channels=True,
            sorting_rings=1,
        ),
    ]
    return Phased(space, recipe, steps_per_epoch, phases)


def draw_among_largest(
    space: SearchSpace, rng: np.random.Generator, *, kernels: int, depths: int, expands: int
) -> ArchSpec:
    """Return a random subnet made of the largest choices only.

    Args:
        space: the search space.
        rng: source of randomness.
        kernels: how many of the largest kernel sizes may be chosen.
        depths: how many of the largest depths.
        expands: how many of the largest expand ratios and widths.
    """
    where = columns(space)
    most = np.full(len(where.choices), math.inf)
    most[where.kernels] = kernels
    most[where.depths] = depths
    most[where.expands] = expands
    most[where.widths] = expands
    allowed = np.minimum(where.choices, most).astype(int)
    genes: Genes = (where.choices - 1 - rng.integers(0, allowed)).astype(np.uint8)
    return decode(space, canonical(space, genes[None]))[0]
