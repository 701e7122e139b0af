"""An architecture: one choice on every axis, canonical, hashable, and readable as JSON.

Relies on ``space.py`` alone. Entries are what they mean: kernels and widths in pixels and channels, depths in blocks;
the entries of a block that the depth leaves out are 0, so that equal subnets compare equal.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from deps.ground.errors import ArchError
from deps.supernet.space import SearchSpace

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class ArchSpec:
    """One subnet of a search space; build it with ``create``, ``from_ofa`` or ``from_dict``, which check it."""

    kernels: tuple[int, ...]
    """Kernel size of every block of the deepest subnet, 0 where the block is left out."""

    expands: tuple[float, ...]
    """Expand ratio of every block of the deepest subnet, 0 where the block is left out."""

    depths: tuple[int, ...]
    """Number of blocks of each stage; first the stem's convolutions, where the space lets them vary."""

    widths: tuple[int, ...]
    """Channels wherever the space lets them vary, in the order of the data's flow; empty when nowhere."""

    resolution: int
    """Side of the image, in pixels."""

    @classmethod
    def create(
        cls,
        space: SearchSpace,
        *,
        kernels: int | Sequence[int] | None = None,
        expands: float | Sequence[float] | None = None,
        depths: int | Sequence[int] | None = None,
        widths: int | Sequence[int] | None = None,
        resolution: int | None = None,
    ) -> ArchSpec:
        """Return the canonical architecture with these choices.

        A single number stands for every position; None stands for the only choice, or the largest one.

        Raises:
            ArchError: a list of the wrong length, or a choice the space does not have; the message names both.
        """
        kernel_choices = [space.stages[s].kernels for s, _ in space.blocks]
        expand_choices = [space.stages[s].expands for s, _ in space.blocks]
        depth_list = _choose(space, "depths", depths, space.depth_choices)
        is_active = [i < depth_list[space.stage_depth_index(s)] for s, i in space.blocks]
        return cls(
            kernels=_choose(space, "kernels", kernels, kernel_choices, is_active),
            expands=_choose(space, "expands", expands, expand_choices, is_active),
            depths=depth_list,
            widths=_choose(space, "widths", widths, space.width_choices),
            resolution=_choose(space, "resolution", resolution, [space.resolutions])[0],
        )

    @classmethod
    def largest(cls, space: SearchSpace, resolution: int | None = None) -> ArchSpec:
        """Return the largest subnet, at the largest resolution unless one is given."""
        return cls.create(space, resolution=resolution)

    @classmethod
    def smallest(cls, space: SearchSpace, resolution: int | None = None) -> ArchSpec:
        """Return the smallest subnet, at the smallest resolution unless one is given."""
        return cls.create(
            space,
            kernels=[space.stages[s].kernels[0] for s, _ in space.blocks],
            expands=[space.stages[s].expands[0] for s, _ in space.blocks],
            depths=[choices[0] for choices in space.depth_choices],
            widths=[choices[0] for choices in space.width_choices],
            resolution=space.resolutions[0] if resolution is None else resolution,
        )

    @classmethod
    def from_ofa(
        cls,
        space: SearchSpace,
        *,
        ks: int | Sequence[int] | None = None,
        e: float | Sequence[float] | None = None,
        d: int | Sequence[int] | None = None,
        w: int | Sequence[int] | None = None,
        resolution: int | None = None,
    ) -> ArchSpec:
        """Return the architecture that once-for-all writes as ``ks, e, d, w`` lists.

        There ``d`` of ResNet-50 counts blocks beyond the smallest depth (0 or 2 in the stem), ``w`` holds indices into
        the width multipliers (0.65, 0.8, 1.0), and the last ``d`` of ProxylessNAS is ignored.

        Raises:
            ArchError: a list of the wrong length, or a choice the space does not have.
        """
        if _counts_beyond(space):
            return cls.create(
                space,
                kernels=ks,
                expands=e,
                depths=_translate(space, "d", d, _ofa_depths(space)),
                widths=_translate(space, "w", w, _ofa_widths(space)),
                resolution=resolution,
            )
        depths = [d] * len(space.depth_choices) if isinstance(d, int) else d
        if isinstance(depths, Sequence) and len(depths) == len(space.depth_choices):
            depths = [c[0] if len(c) == 1 else v for c, v in zip(space.depth_choices, depths, strict=True)]
        return cls.create(space, kernels=ks, expands=e, depths=depths, widths=w, resolution=resolution)

    def to_ofa(self, space: SearchSpace) -> dict[str, Any]:
        """Return the ``ks, e, d, w`` lists and the resolution; a left-out block gets its stage's smallest choice."""
        stage_of = [s for s, _ in space.blocks]
        lists: dict[str, Any] = {
            "ks": [k or space.stages[s].kernels[0] for k, s in zip(self.kernels, stage_of, strict=True)],
            "e": [e or space.stages[s].expands[0] for e, s in zip(self.expands, stage_of, strict=True)],
            "d": list(self.depths),
            "w": list(self.widths) or None,
            "r": self.resolution,
        }
        if _counts_beyond(space):
            for name, values, tables in (
                ("d", self.depths, _ofa_depths(space)),
                ("w", self.widths, _ofa_widths(space)),
            ):
                lists[name] = [
                    next(written for written, meant in table.items() if meant == value)
                    for value, table in zip(values, tables, strict=True)
                ]
            if all(stage.block == "bottleneck" for stage in space.stages):
                lists["ks"] = None
        return lists

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, which ``from_dict`` reads."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, space: SearchSpace, value: dict[str, Any]) -> ArchSpec:
        """Return the architecture that ``to_dict`` wrote.

        Raises:
            ArchError: a field is missing or unknown, or a choice is not in the space.
        """
        expected = {"kernels", "expands", "depths", "widths", "resolution"}
        if not isinstance(value, dict) or set(value) != expected:
            found = sorted(value) if isinstance(value, dict) else type(value).__name__
            raise ArchError(f"an architecture has the fields {sorted(expected)}; found {found}")
        if None in value.values():
            raise ArchError(f"a field of an architecture is empty; found {value}")
        return cls.create(space, **value)

    @classmethod
    def parse(cls, space: SearchSpace, text: str) -> ArchSpec:
        """Return the architecture that a person wrote: ``largest``, ``smallest``, or JSON, ours or once-for-all's.

        Raises:
            ArchError: not one of these, or a choice is not in the space.
        """
        if text in ("largest", "smallest"):
            return cls.largest(space) if text == "largest" else cls.smallest(space)
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise ArchError(
                f"{text!r} is not an architecture ({error}); write largest, smallest, or JSON such as "
                '{"kernels": 3, "expands": 3, "depths": 2}'
            ) from error
        if not isinstance(value, dict):
            raise ArchError(f"{text!r} is not an architecture; expected a JSON object")
        is_ofa = bool(set(value) & {"ks", "e", "d", "w"})
        if is_ofa and "r" in value:
            value["resolution"] = value.pop("r")
        known = {"ks", "e", "d", "w", "resolution"} if is_ofa else set(cls.__slots__)
        if unknown := set(value) - known:
            raise ArchError(f"unknown fields {sorted(unknown)} in an architecture; known: {sorted(known)}")
        return cls.from_ofa(space, **value) if is_ofa else cls.create(space, **value)

    def check(self, space: SearchSpace) -> ArchSpec:
        """Return this architecture if it is canonical in ``space``.

        Raises:
            ArchError: it is not of this space, or its left-out blocks are not 0.
        """
        if not _belongs(space, self):
            canonical = ArchSpec.from_dict(space, self.to_dict())
            if canonical != self:
                raise ArchError(f"{self} is not canonical in {space.name}; build it with ArchSpec.create")
        return self

    def to_text(self) -> str:
        """Return the architecture in one line: kernel and expand of each block, ``-`` for one that is left out."""
        blocks, texts = iter(zip(self.kernels, self.expands, strict=True)), []
        for kernel, expand in blocks:
            texts.append(f"{kernel}x{expand:g}" if kernel else "-")
        text = f"k×e [{' '.join(texts)}] d {list(self.depths)}"
        return text + (f" w {list(self.widths)}" if self.widths else "") + f" {self.resolution} px"


@functools.lru_cache(maxsize=4096)
def _belongs(space: SearchSpace, arch: ArchSpec) -> bool:
    """Whether ``arch`` is canonical; remembered, because every slicing asks."""
    try:
        return ArchSpec.from_dict(space, arch.to_dict()) == arch
    except ArchError:
        return False


def _choose(
    space: SearchSpace,
    axis: str,
    value: Any,
    choices: Sequence[Sequence[Any]],
    is_active: Sequence[bool] | None = None,
) -> tuple[Any, ...]:
    """Return one choice per position, 0 where inactive; complain with the axis and its choices."""
    if hasattr(value, "tolist"):
        value = value.tolist()  # an array, or a number out of one
    if value is None:
        values: Sequence[Any] = [options[-1] for options in choices]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        values = [value] * len(choices)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        values = value
    else:
        raise ArchError(f"{axis} is {value!r}; expected a number or a list of {len(choices)} numbers")
    if len(values) != len(choices):
        raise ArchError(f"{axis} has {len(values)} entries; {space.name} expects {len(choices)}")
    result = []
    for position, (item, options) in enumerate(zip(values, choices, strict=True)):
        if is_active is not None and not is_active[position]:
            result.append(0)
            continue
        if isinstance(item, bool) or item not in options:
            name = axis if axis == "resolution" else f"{axis}[{position}]"
            listed = ", ".join(f"{option:g}" for option in options)
            raise ArchError(f"{name} is {item!r}; choices in {space.name}: {listed}")
        result.append(options[options.index(item)])
    return tuple(result)


def _counts_beyond(space: SearchSpace) -> bool:
    """Whether once-for-all writes this space's depths as blocks beyond the smallest, and its widths as indices."""
    return any(stage.block == "bottleneck" for stage in space.stages)


def _ofa_depths(space: SearchSpace) -> list[dict[int, int]]:
    """Return, for each depth position, what once-for-all writes and the depth it means."""
    tables = [{depth - choices[0]: depth for depth in choices} for choices in space.depth_choices]
    if space.has_elastic_stem:
        # The stem's one optional layer is written like two blocks.
        without, with_layer = space.depth_choices[0]
        tables[0] = {0: without, 2: with_layer}
    return tables


def _ofa_widths(space: SearchSpace) -> list[dict[int, int]]:
    """Return, for each width position, the index that once-for-all writes and the width it means.

    An index stands for a multiplier. Two multipliers may give the same width (24, 24, 32 in the stem of ResNet-50),
    which our spaces list once; rounding to eight does that to the smallest ones.
    """
    count = max((len(choices) for choices in space.width_choices), default=0)
    return [
        {index: choices[max(0, index - (count - len(choices)))] for index in range(count)}
        for choices in space.width_choices
    ]


def _translate(space: SearchSpace, name: str, value: Any, tables: list[dict[int, int]]) -> list[int]:
    """Return what the entries of a once-for-all list mean."""
    written = _choose(space, name, value, [tuple(table) for table in tables])
    return [table[entry] for table, entry in zip(tables, written, strict=True)]
