"""Recipes by name: each is a function that returns one complete ``Recipe``."""

from __future__ import annotations

from deps.ground.errors import RecipeError
from deps.train.recipe import Recipe, RecipeFunction
from deps.train.recipes.digits import digits

__all__ = ["get_recipe", "recipe_names"]

_RECIPES: dict[str, RecipeFunction] = {"digits": digits}


def recipe_names() -> tuple[str, ...]:
    """Return the names of all recipes."""
    return tuple(_RECIPES)


def get_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``.

    Raises:
        RecipeError: there is none; the message lists those there are.
    """
    if name not in _RECIPES:
        raise RecipeError(f"unknown recipe {name!r}; known: {', '.join(_RECIPES)}")
    return _RECIPES[name]()
