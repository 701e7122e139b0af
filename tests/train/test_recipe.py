"""A recipe is complete, checked and documented."""

from __future__ import annotations

import json

import pytest

from deps.ground.errors import RecipeError
from deps.train.recipe import Recipe, field_docs, field_kinds, override
from deps.train.recipes import get_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_survive_json(name: str):
    """The resolved recipe is saved beside the results."""
    recipe = get_recipe(name)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_every_field_is_documented():
    """Each becomes a flag, with its docstring as help."""
    assert set(field_docs()) == set(field_kinds())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 1}, "BatchNorm needs two"),
        ({"lr": float("nan")}, "finite"),
        ({"warmup_fraction": 1.5}, "between 0 and 1"),
        ({"method": "ofa2"}, "one of deps"),
        ({"space": "nowhere"}, "unknown search space"),
        ({"seed": -1}, "0 or more"),
        ({"momentum": 1.0}, "below 1"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object], told: str):
    """Said before the first epoch, with what was expected."""
    with pytest.raises(RecipeError, match=told):
        override(get_recipe("digits"), change)


@pytest.mark.parametrize(
    "damage", [{"epoch": 3}, {"epochs": "3"}, {"epochs": True}, {"distill": 1}, {"lr": None}], ids=str
)
def test_a_damaged_recipe_file_is_refused(damage: dict[str, object]):
    """A recipe edited by hand."""
    with pytest.raises(RecipeError):
        Recipe.from_dict({**get_recipe("digits").to_dict(), **damage})


def test_unknown_recipes_list_the_known():
    """A person who mistypes gets the list."""
    with pytest.raises(RecipeError, match="known: digits"):
        get_recipe("digit")
