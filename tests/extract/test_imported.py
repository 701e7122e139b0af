"""A supernet that was published elsewhere is imported, measured on a person's own pictures, and shipped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deps.extract.cli import main as extract
from deps.serve.bundle import read_bundle
from deps.supernet import ArchSpec, Supernet, get_space
from deps.supernet.published import published_state
from deps.train.cli import main as train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark noise: two classes of a few pictures."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 2)):
        for name, low in (("bright", 128), ("dark", 0)):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(low, low + 127, (150, 160, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet under its published names, with another number of classes, brought in by the command."""
    folder = tmp_path_factory.mktemp("imported")
    space = get_space("ofa-mbv3-w1.0")
    two_classes = type(space).from_dict({**space.to_dict(), "num_classes": 2})
    supernet = Supernet.create(two_classes, seed=1)
    torch.save({"state_dict": published_state(supernet)}, folder / "published.pth")
    argv = ["import-ofa", str(folder / "published.pth"), "--space", "ofa-mbv3-w1.0", "--out", str(folder / "ofa")]
    assert train([*argv, "--quiet"]) == 0
    return folder / "ofa"


def test_an_imported_supernet_becomes_a_bundle(
    imported: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Budget, recalibration on own pictures, exports, and the cut that the server must make."""
    out = tmp_path / "bundle"
    argv = ["--supernet", str(imported), "--data", str(pictures), "--flops", "200M", "--target", "cpu"]
    assert extract([*argv, "--out", str(out), "--samples", "8", "--quiet", "--max-drop", "100"]) == 0
    manifest = read_bundle(out).manifest
    subnet = manifest.default_subnet
    assert subnet.flops <= 200_000_000
    assert manifest.labels == ("bright", "dark")
    arch = ArchSpec.from_dict(get_space("ofa-mbv3-w1.0"), subnet.arch)
    assert manifest.input.shape == (3, arch.resolution, arch.resolution)
    assert manifest.input.crop == arch.resolution
    assert manifest.input.resize == -(-256 * arch.resolution // 224)
    assert "fp32" in {model.precision for model in subnet.models}
    # With the same pictures the torch subnet can be made again, though the run has none of its own.
    capsys.readouterr()
    assert extract(["verify", str(out), "--supernet", str(imported), "--data", str(pictures), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["unchecked"] == []


def test_with_a_published_predictor_no_pictures_are_needed(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Nothing is measured then, and nothing is claimed: accuracies are unknown, int8 is left out, and both are said."""
    torch.manual_seed(0)
    shapes = [(8, 128), (8,), (1, 8)]
    torch.save({str(i): torch.randn(shape) / 8 for i, shape in enumerate(shapes)}, tmp_path / "predictor.pth")
    out = tmp_path / "bundle"
    argv = ["--supernet", str(imported), "--flops", "150M", "--target", "cpu", "--out", str(out), "--json"]
    assert extract([*argv, "--predictor", str(tmp_path / "predictor.pth")]) == 0
    told, story = capsys.readouterr()
    assert "there are no images: nothing is measured, BatchNorm keeps the checkpoint's statistics" in story
    manifest = read_bundle(out).manifest
    subnet = manifest.default_subnet
    assert subnet.flops <= 150_000_000
    assert subnet.arch["resolution"] % 16 == 0
    assert [model.precision for model in subnet.models] == ["fp32", "fp16"]
    assert {model.top1 for model in subnet.models} == {None}
    assert max(model.max_abs_error or 0 for model in subnet.models) > 0
    assert [note.partition(":")[0] for note in manifest.notes] == ["trt-int8 left out", "cpu-int8 left out"]
    assert "of unknown accuracy" in (out / "README.md").read_text()
    assert not (out / "report").exists()
    plain = json.loads(told)
    assert plain["top1_torch"] is None
    assert plain["search"]["predictor"] == {"of": "top1", "source": "the published predictor predictor.pth"}
    assert 0 < plain["search"]["chosen"]["predicted_top1"] <= plain["search"]["additive_model"]["bound_top1"] + 0.5


def test_without_pictures_it_says_what_to_give(imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """BatchNorm cannot be recalibrated from nothing, and accuracy is measured, not guessed."""
    argv = ["--supernet", str(imported), "--flops", "200M", "--target", "cpu", "--out", str(tmp_path / "bundle")]
    assert extract(argv) == 1
    told = capsys.readouterr().err
    for way in ("--data FOLDER", "--predictor FILE", "--objective flops"):
        assert way in told
    assert not (tmp_path / "bundle").exists()


def test_pictures_of_another_number_of_classes_are_refused(
    imported: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Labels would mean something else than the classifier's outputs."""
    for part in ("train", "val"):
        for name in ("bright", "dark", "grey"):
            (tmp_path / "three" / part / name).mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (20, 20)).save(tmp_path / "three" / part / name / f"{index}.png")
    argv = ["--supernet", str(imported), "--data", str(tmp_path / "three"), "--flops", "200M", "--target", "cpu"]
    assert extract([*argv, "--out", str(tmp_path / "bundle")]) == 1
    assert "has 3 classes and the supernet" in capsys.readouterr().err
