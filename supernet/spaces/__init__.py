"""The spaces that ship with deps, one module a family, data only."""

from __future__ import annotations

import functools

from deps.ground.errors import SpaceError
from deps.supernet.space import SearchSpace
from deps.supernet.spaces import digits, mobilenetv3, proxyless, resnet50

__all__ = ["get_space", "space_names"]


@functools.cache
def _registry() -> dict[str, SearchSpace]:
    families = (mobilenetv3, proxyless, resnet50, digits)
    return {space.name: space for family in families for space in family.spaces()}


def space_names() -> tuple[str, ...]:
    """Return the names of all spaces that ship with deps."""
    return tuple(_registry())


def get_space(name: str) -> SearchSpace:
    """Return the space called ``name``.

    Raises:
        SpaceError: there is none; the message lists those there are.
    """
    try:
        return _registry()[name]
    except KeyError:
        raise SpaceError(f"unknown search space {name!r}; known: {', '.join(space_names())}") from None
