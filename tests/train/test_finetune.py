"""Starting from another supernet: all weights but a classifier of other classes, and settings that fit."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deps.ground.console import Story
from deps.ground.errors import DepsError, RecipeError
from deps.ground.files import sha256_of
from deps.supernet import Supernet, get_space
from deps.supernet.published import published_state
from deps.supernet.restrict import restricted
from deps.train.cli import main
from deps.train.datasets import load_data
from deps.train.finetune import finetuned
from deps.train.recipe import Recipe, override
from deps.train.recipes import get_recipe
from deps.train.run import open_run, read_results
from deps.train.start import initial_supernet
from strategies import lived_in

SHARED = Path(os.environ.get("DEPS_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
IMAGENETTE = SHARED / "imagenette-224-subset"
QUIET = Story(quiet=True)
DIGITS = load_data("digits")
SPACE = restricted(get_space("digits"), kernels=(3, 5), depths=(2,))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet of a restricted space, of the ten digits."""
    folder = tmp_path_factory.mktemp("origin") / "run"
    folder.mkdir()
    supernet = lived_in(SPACE, seed=5)
    supernet.provenance = {"images": {"classes": list(DIGITS.classes), "mean": [0.5], "std": [0.25]}}
    supernet.save(folder)
    return folder


def recipe_from(path: Path, given: dict[str, object] | None = None, name: str = "digits") -> Recipe:
    given = {"finetune_from": str(path), **(given or {})}
    return finetuned(override(get_recipe(name), given), set(given))


def test_what_follows_from_a_checkpoint_yields_to_what_a_person_says(origin: Path):
    """The space is the checkpoint's; the supernet is shrunk and sorted already; the learning rate is a tenth."""
    recipe = recipe_from(origin)
    assert (recipe.space, recipe.kernels, recipe.depths) == ("digits", (), (2,))
    assert recipe.search_space(10) == SPACE
    assert (recipe.warmup_fraction, recipe.epsilon_ramp, recipe.sort_channels) == (0.0, 0.0, False)
    assert recipe.lr == pytest.approx(get_recipe("digits").lr / 10)
    told = recipe_from(origin, {"lr": 0.3, "warmup_fraction": 0.25, "sort_channels": True})
    assert (told.lr, told.warmup_fraction, told.sort_channels) == (0.3, 0.25, True)


@pytest.mark.parametrize("method", ["ofa", "compofa"])
def test_methods_with_a_teacher_still_train_it_first(origin: Path, method: str):
    """Its classifier is new."""
    assert recipe_from(origin, {"method": method}).warmup_fraction == get_recipe("digits").warmup_fraction


def test_the_classifier_is_kept_for_the_same_classes_alone(origin: Path):
    """Equal in number is not equal in meaning."""
    recipe, theirs = recipe_from(origin), Supernet.load(origin).tensors
    same = initial_supernet(recipe, DIGITS, QUIET)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in same.tensors.items())
    record = same.provenance["finetuned_from"]
    assert record["sha256"] == sha256_of(origin / "supernet.safetensors")
    assert (record["space"], record["keeps_classifier"]) == ("digits-d2", True)
    other = initial_supernet(recipe, replace(DIGITS, classes=tuple("abcdefghij")), QUIET)
    differ = {name for name, tensor in other.tensors.items() if not torch.equal(tensor, theirs[name])}
    assert differ == {"classifier.weight", "classifier.bias"}
    more = initial_supernet(recipe, replace(DIGITS, classes=tuple("abcdefghijkl")), QUIET)
    assert more.tensors["classifier.weight"].shape[0] == more.space.num_classes == 12


def test_weights_are_copies(origin: Path):
    """Training changes them in place."""
    first = initial_supernet(recipe_from(origin), DIGITS, QUIET)
    assert all(tensor.is_contiguous() and tensor.storage_offset() == 0 for tensor in first.tensors.values())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"space": "digits-proxyless"}, "holds a supernet of digits-d2, not of digits-proxyless; leave out --space"),
        ({"kernels": (3,)}, "do not fit"),
        ({"depths": (1,)}, "do not fit|does not have"),
    ],
)
def test_a_space_that_does_not_match_is_refused(origin: Path, given: dict[str, object], told: str):
    """With the space that the checkpoint has."""
    with pytest.raises(RecipeError, match=told):
        initial_supernet(recipe_from(origin, given), DIGITS, QUIET)


def test_a_place_without_weights_is_said(tmp_path: Path):
    """Missing, or unfinished."""
    for path, told in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "finish it first")):
        with pytest.raises(DepsError, match=told):
            recipe_from(path)


def test_a_run_goes_on_from_a_run_with_another_method(origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The record says what it came from."""
    flags = "--epochs 1 --train-images 32 --batch-size 16 --calibration-images 32 --evaluation-subnets 0 --json --quiet"
    argv = ["digits", "--finetune-from", str(origin), "--method", "bignas", "--out", str(tmp_path / "run")]
    assert main([*argv, *flags.split()]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "bignas"
    run = open_run(tmp_path / "run")
    assert run.supernet().provenance["finetuned_from"]["path"] == str(origin)
    assert run.recipe is not None
    assert run.recipe.finetune_from == str(origin)


@pytest.mark.skipif(not IMAGENETTE.is_dir(), reason=f"{IMAGENETTE} is not here")
@pytest.mark.parametrize("is_finetuned", [False, True], ids=["fresh", "imported"])
def test_photos_of_224_pixels_train_the_published_space(tmp_path: Path, is_finetuned: bool):
    """Two steps of the MobileNetV3 space on real photos, also from a file as once-for-all publishes them."""
    for part in ("train", "val"):
        for folder in sorted((IMAGENETTE / part).iterdir()):
            (tmp_path / "photos" / part / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[:2]:
                (tmp_path / "photos" / part / folder.name / path.name).symlink_to(path.resolve())
    argv = ["imagefolder", "--data", str(tmp_path / "photos"), "--out", str(tmp_path / "run"), "--quiet"]
    flags = "--epochs 1 --train-images 4 --batch-size 2 --evaluation-images 4 --calibration-images 4"
    flags += " --evaluation-subnets 0 --random-subnets 0 --workers 0 --threads 1"
    argv += flags.split()
    if is_finetuned:
        published = Supernet.create(replace(get_space("ofa-mbv3-w1.0"), num_classes=1000))
        torch.save({"state_dict": published_state(published, is_old=True)}, tmp_path / "ofa.pth")
        argv += ["--finetune-from", str(tmp_path / "ofa.pth"), "--method", "bignas"]
    assert main(argv) == 0
    run = open_run(tmp_path / "run")
    supernet, results = run.supernet(), read_results(run.folder)
    assert results is not None
    assert results["steps"] == 2
    assert (supernet.space.name, supernet.space.num_classes) == ("ofa-mbv3-w1.0-r224", 10)
    record = supernet.provenance.get("finetuned_from", {})
    assert bool(record) == is_finetuned
    assert run.data().preprocessing.mean == ((0.485, 0.456, 0.406) if is_finetuned else run.data().preprocessing.mean)
    if is_finetuned:
        assert record["sha256"] == sha256_of(tmp_path / "ofa.pth")
