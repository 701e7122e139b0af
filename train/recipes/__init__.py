"""Recipes by name: each is a function that returns one complete ``Recipe``.

``NAME-FAMILY`` trains another family, and ``-late`` at the end of any name starts shrinking late.
"""

from __future__ import annotations

import inspect

from deps.ground.errors import RecipeError
from deps.train.recipe import Recipe, RecipeFunction
from deps.train.recipes import cifar, digits, imagefolder, imagenet
from deps.train.recipes.late import late

__all__ = ["get_recipe", "recipe_docs", "recipe_names"]

_FUNCTIONS: tuple[RecipeFunction, ...] = (
    digits.digits,
    digits.digits_proxyless,
    digits.digits_resnet50,
    cifar.cifar10,
    cifar.cifar10_proxyless,
    cifar.cifar10_resnet50,
    cifar.cifar10_narrow,
    cifar.cifar10_proxyless_narrow,
    cifar.cifar10_resnet50_narrow,
    cifar.cifar10_tiny,
    cifar.cifar10_proxyless_tiny,
    cifar.cifar100,
    cifar.cifar100_proxyless,
    cifar.cifar100_resnet50,
    imagenet.imagenet100,
    imagenet.imagenet100_proxyless,
    imagenet.imagenet100_resnet50,
    imagenet.imagenet,
    imagenet.imagenet_proxyless,
    imagenet.imagenet_resnet50,
    imagefolder.imagefolder,
    imagefolder.imagefolder_proxyless,
    imagefolder.imagefolder_resnet50,
)
_LATE = "-late"
_RECIPES: dict[str, RecipeFunction] = {function.__name__.replace("_", "-"): function for function in _FUNCTIONS}


def recipe_names() -> tuple[str, ...]:
    """Return the names of all recipes."""
    return tuple(_RECIPES)


def recipe_docs() -> dict[str, str]:
    """Return one line about each recipe, by name."""
    return {name: (inspect.getdoc(function) or "").split("\n")[0].rstrip(".") for name, function in _RECIPES.items()}


def get_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``; ``NAME-late`` is that of ``NAME`` with a late start.

    Raises:
        RecipeError: there is none; the message lists those there are.
    """
    plain = name.removesuffix(_LATE)
    if plain not in _RECIPES:
        raise RecipeError(f"unknown recipe {name!r}; known: {', '.join(_RECIPES)}; each also with {_LATE} at the end")
    recipe = _RECIPES[plain]()
    return recipe if plain == name else late(recipe)
