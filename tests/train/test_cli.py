"""The command line of training: every setting is a flag, and what it does is said."""

from __future__ import annotations

import json

import pytest

from deps.ground.console import Story
from deps.train.cli import build_parser, main, resolved
from deps.train.recipe import Recipe, field_kinds
from deps.train.recipes import get_recipe, recipe_names


def recipe_of(line: str) -> Recipe:
    return resolved(build_parser().parse_args(line.split()), Story())


def test_recipes_are_listed_with_their_spaces(capsys: pytest.CaptureFixture[str]):
    """Without naming one."""
    assert main(["--recipes"]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "cifar10 CIFAR-10, MobileNetV3 (cifar-mbv3-k7, 200 epochs)" in rows
    assert "NAME-late any of them, whose subnets join late and learn fast" in rows
    assert main(["--recipes", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["recipes"]] == list(recipe_names())


def test_every_setting_is_a_flag():
    """Also those of the augmentation."""
    flags = {action.dest for action in build_parser()._actions}
    assert set(field_kinds()) - {"name"} <= flags


def test_flags_reach_the_recipe_and_its_augmentation():
    """Lists with commas, numbers, switches and names."""
    recipe = recipe_of(
        "imagefolder --data x --kernels 3,7 --expands 3 --mixup 0.2 --no-flip --policy randaugment"
        " --std 0.2,0.2,0.3 --mean 0,0,1"
    )
    assert (recipe.kernels, recipe.expands, recipe.std) == ((3, 7), (3,), (0.2, 0.2, 0.3))
    assert (recipe.augment.mixup, recipe.augment.flip, recipe.augment.policy) == (0.2, False, "randaugment")
    assert recipe.augment.crop_scale == get_recipe("imagefolder").augment.crop_scale
    assert recipe.search_space(7).name == "ofa-mbv3-w1.0-k3_7-e3-r224"
    assert recipe.search_space(7).num_classes == 7


def test_the_learning_rate_follows_the_batch_only_when_told(capsys: pytest.CaptureFixture[str]):
    """Nothing that a person did not ask for changes in silence."""
    assert recipe_of("imagenet --batch-size 256").lr == 2.6
    assert "--scale-lr changes it in proportion" in capsys.readouterr().err
    assert recipe_of("imagenet --batch-size 256 --scale-lr").lr == pytest.approx(2.6 / 8)
    assert "scaled to 0.325" in capsys.readouterr().err
    assert recipe_of("imagenet --batch-size 256 --scale-lr --lr 1").lr == 1
    assert recipe_of("imagenet").lr == 2.6


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("imagefolder", "--data FOLDER"),
        ("digits --data somewhere", "leave out --data"),
        ("digits --kernels 9", "choice of no stage"),
        ("digits --crop-scale 2", "crop_scale is 2.0"),
        ("digits --mean 0.5,0.5", "as many numbers"),
        ("digits --mean 0.5 --std 0.5", "no use for --mean"),
        ("digits --workers -1", "--workers is -1"),
        ("digits --space cifar-mbv3", "1 colour channels and cifar-mbv3 takes 3"),
        ("digits --finetune-from nowhere", "nowhere does not exist"),
        ("digits --resolutions 8,8", "ascending, distinct"),
    ],
)
def test_wrong_settings_are_said_in_one_line(tmp_path, capsys: pytest.CaptureFixture[str], line: str, code: str):
    """Before anything is computed."""
    assert main([*line.split(), "--out", str(tmp_path / "run"), "--quiet"]) == 1
    told = capsys.readouterr().err
    assert code in told
    assert told.count("\n") == 1
