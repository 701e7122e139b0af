"""A search space with fewer choices: what a recipe such as "kernel fixed at 7" trains, stored with the supernet.

Relies on a space being data: the result is an ordinary space, whose name says what was left out.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from deps.ground.errors import SpaceError
from deps.supernet.space import SearchSpace, StageSpec


def restricted(
    space: SearchSpace,
    *,
    kernels: tuple[int, ...] = (),
    expands: tuple[float, ...] = (),
    depths: tuple[int, ...] = (),
    resolutions: tuple[int, ...] = (),
) -> SearchSpace:
    """Return a space that has, of the choices of each stage, only those given; none given leaves an axis as it is.

    A stage with one choice on an axis keeps it. Resolutions may be any: a network takes images of every size.

    Args:
        space: a space with at least these choices.
        kernels: kernel sizes to keep, such as (7,).
        expands: expand ratios to keep.
        depths: numbers of blocks to keep.
        resolutions: sides of the images, in pixels, in place of the space's.

    Raises:
        SpaceError: a stage would have no choice left, or a value is a choice of no stage.
    """
    name, stages = space.name, space.stages
    wanted: tuple[tuple[str, str, tuple[float, ...]], ...] = (
        ("kernels", "k", kernels),
        ("expands", "e", expands),
        ("depths", "d", depths),
    )
    for axis, letter, values in wanted:
        if values:
            stages = _restricted_stages(space, stages, axis, values)
            if [getattr(stage, axis) for stage in stages] != [getattr(stage, axis) for stage in space.stages]:
                name += f"-{letter}{_listed(values)}"
    if resolutions and resolutions != space.resolutions:
        name += f"-r{_listed(resolutions)}"
    return dataclasses.replace(space, name=name, stages=stages, resolutions=resolutions or space.resolutions)


def _restricted_stages(
    space: SearchSpace, stages: tuple[StageSpec, ...], axis: str, values: tuple[float, ...]
) -> tuple[StageSpec, ...]:
    def choices(stage: StageSpec) -> tuple[float, ...]:
        found: tuple[float, ...] = getattr(stage, axis)
        return found

    known = sorted({choice for stage in stages for choice in choices(stage)})
    if unknown := [value for value in values if value not in known]:
        raise SpaceError(
            f"{axis} of {_listed(unknown, ', ')} is a choice of no stage of {space.name}; known: {_listed(known, ', ')}"
        )
    result = []
    for number, stage in enumerate(stages, start=1):
        kept = tuple(choice for choice in choices(stage) if choice in values)
        if not kept and len(choices(stage)) > 1:
            raise SpaceError(
                f"{axis} {_listed(values, ', ')} leave stage {number} of {space.name} without a choice; "
                f"it has {_listed(choices(stage), ', ')}"
            )
        change: dict[str, Any] = {axis: kept} if kept else {}
        result.append(dataclasses.replace(stage, **change))
    return tuple(result)


def _listed(values: tuple[float, ...] | list[float], between: str = "_") -> str:
    return between.join(f"{value:g}" for value in values)
