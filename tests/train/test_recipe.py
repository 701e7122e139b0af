"""A recipe is complete, checked and documented."""

from __future__ import annotations

import json

import pytest

from deps.ground.errors import RecipeError
from deps.train.methods import method_of
from deps.train.recipe import Recipe, field_docs, field_kinds, override
from deps.train.recipes import get_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_survive_json(name: str):
    """The resolved recipe is saved beside the results."""
    recipe = get_recipe(name)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cifar100", "imagenet100", "imagenet", "imagefolder"])
def test_each_data_set_has_a_recipe_of_each_family(dataset: str):
    """Inverted blocks with and without squeeze-excite, and bottlenecks with elastic widths."""
    spaces = [get_recipe(name).search_space() for name in (dataset, f"{dataset}-proxyless", f"{dataset}-resnet50")]
    assert [space.stages[0].block for space in spaces] == ["inverted", "inverted", "bottleneck"]
    assert [any(stage.squeeze_excite for stage in space.stages) for space in spaces] == [True, False, False]
    assert [bool(space.width_choices) for space in spaces] == [False, False, True]


def test_published_values_are_what_was_published():
    """DεpS, ECCV 2024: ImageNet-1k on 16 GPUs, CIFAR, ImageNet-100."""
    imagenet, cifar = get_recipe("imagenet"), get_recipe("cifar10")
    assert imagenet.lr / imagenet.batch_size == pytest.approx(0.1625 / 128)
    assert imagenet.batch_size == 16 * 128
    assert imagenet.epochs * imagenet.warmup_fraction == pytest.approx(150)
    assert (imagenet.epochs, imagenet.epsilon_ramp, imagenet.weight_decay) == (270, 5, 3e-5)
    assert (imagenet.label_smoothing, imagenet.dropout, imagenet.augment.erasing) == (0.1, 0.1, 0.2)
    assert {stage.kernels for stage in imagenet.search_space().stages} == {(7,)}
    assert get_recipe("imagenet100").epochs == 180
    assert (cifar.epochs, cifar.lr, cifar.batch_size, cifar.augment.crop_padding) == (200, 0.1, 128, 4)


@pytest.mark.parametrize("method", ["deps", "ofa", "bignas", "compofa"])
def test_a_step_has_one_resolution_drawn_from_seed_and_step(method: str):
    """All subnets of a step see the same images, and so do all ranks."""
    changes = {"space": "cifar-mbv3-narrow", "resolutions": (24, 28, 32), "method": method, "warmup_fraction": 0.5}
    recipe = override(get_recipe("imagefolder"), {**changes, "epochs": 4})
    plans = [method_of(recipe.search_space(10), recipe, 30).plan(step) for step in range(120)]
    drawn = [{share.arch.resolution for share in plan.shares} for plan in plans]
    assert all(len(resolutions) == 1 for resolutions in drawn)
    counts = [sum(resolutions == {side} for resolutions in drawn) for side in (24, 28, 32)]
    assert min(counts) > 25
    other = method_of(recipe.search_space(10), override(recipe, {"seed": 1}), 30)
    assert [{share.arch.resolution for share in other.plan(step).shares} for step in range(120)] != drawn


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
        ({"cosine_at_shrink": 1.0}, "below 1"),
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
    "damage",
    [
        {"epoch": 3},
        {"kernels": [True]},
        {"augment": {"flip": 1}},
        {"augment": {"flop": True}},
        {"epochs": "3"},
        {"epochs": True},
        {"distill": 1},
        {"lr": None},
    ],
    ids=str,
)
def test_a_damaged_recipe_file_is_refused(damage: dict[str, object]):
    """A recipe edited by hand."""
    with pytest.raises(RecipeError):
        Recipe.from_dict({**get_recipe("digits").to_dict(), **damage})


@pytest.mark.parametrize("name", recipe_names())
def test_any_recipe_can_start_late(name: str):
    """Only the start of shrinking and what comes after it changes; the ramp keeps its share of that."""
    plain, late = get_recipe(name), get_recipe(f"{name}-late")
    assert late.name == f"{name}-late"
    assert (late.epochs, late.space, late.lr, late.augment) == (plain.epochs, plain.space, plain.lr, plain.augment)
    steps = late.steps(100)
    method = method_of(late.search_space(10), late, 100)
    assert method.shrink_start == round(0.85 * steps)
    assert method.plan(method.shrink_start).lr == pytest.approx(plain.lr / 2)
    shares = [r.epsilon_ramp / (r.epochs * (1 - r.warmup_fraction)) for r in (plain, late)]
    assert shares[1] == pytest.approx(shares[0], rel=0.01)
    roles = [share.role for share in method.plan(steps - 1).shares]
    assert roles == ["largest", "smallest", "random"]


def test_a_late_start_of_what_is_late_already_is_unknown():
    """And the list says how to name one."""
    with pytest.raises(RecipeError, match="each also with -late at the end"):
        get_recipe("digits-late-late")


def test_unknown_recipes_list_the_known():
    """A person who mistypes gets the list."""
    with pytest.raises(RecipeError, match="known: digits"):
        get_recipe("digit")
