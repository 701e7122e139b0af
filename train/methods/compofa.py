"""CompOFA: depth and expand ratio of a stage are tied, so that few, sensible subnets train together.

Source: Sahni et al., "CompOFA: Compound Once-For-All Networks for Faster Multi-Platform Deployment", ICLR 2021.
"""

from __future__ import annotations

import functools

import numpy as np

from deps.supernet.arch import ArchSpec
from deps.supernet.space import SearchSpace
from deps.train.methods.phased import Phase, Phased
from deps.train.recipe import Recipe


def compofa(space: SearchSpace, recipe: Recipe, steps_per_epoch: int) -> Phased:
    """Return the teacher and the joint pair of phases; kernels and widths stay the largest."""

    def draw(choices: int | None) -> functools.partial[ArchSpec]:
        return functools.partial(draw_compound, space, choices=choices)

    phases = [
        Phase(name="teacher", epochs=180, rate=1.0, subnets=0),
        Phase(name="joint 1", epochs=25, rate=0.08 / 2.6, subnets=4, draw=draw(2), sorts_channels=True),
        Phase(
            name="joint 2",
            epochs=120,
            rate=0.24 / 2.6,
            subnets=4,
            draw=draw(None),
            sorts_channels=True,
            sorting_rings=1,
        ),
    ]
    return Phased(space, recipe, steps_per_epoch, phases)


def draw_compound(space: SearchSpace, rng: np.random.Generator, *, choices: int | None) -> ArchSpec:
    """Return a random subnet in which the n-th depth of a stage comes with its n-th expand ratio.

    Where a stage has more of one than of the other, the shorter list is stretched evenly over the longer.

    Args:
        space: the search space.
        rng: source of randomness.
        choices: how many of the largest depths may be chosen; None means all.
    """
    depths, expands = [], []
    for stage in space.stages:
        count = len(stage.depths)
        pick = int(rng.integers(0 if choices is None else max(0, count - choices), count))
        share = pick / (count - 1) if count > 1 else 1.0
        depths.append(stage.depths[pick])
        expands += [stage.expands[round(share * (len(stage.expands) - 1))]] * stage.max_depth
    stem = [space.depth_choices[0][-1]] if space.has_elastic_stem else []
    return ArchSpec.create(space, depths=[*stem, *depths], expands=expands)
