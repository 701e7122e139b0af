"""A bundle is opened whole or not at all, and nothing outside its folder is ever read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deps.ground.errors import BundleError
from deps.serve.bundle import read_bundle

MODEL = "models/large/fp32.onnx"


def test_bundle_that_was_written_is_read(bundle_folder: Path):
    """The plain case: every file is there and as its hash says."""
    bundle = read_bundle(bundle_folder)
    assert [subnet.name for subnet in bundle.manifest.subnets] == ["large", "small"]
    file = bundle.manifest.default_subnet.models[0]
    assert bundle.read_bytes(file) == (bundle_folder / MODEL).read_bytes()


def test_altered_file_is_not_opened(bundle_folder: Path):
    """One flipped bit of the same size is caught by the hash."""
    content = bytearray((bundle_folder / MODEL).read_bytes())
    content[100] ^= 1
    (bundle_folder / MODEL).write_bytes(content)
    with pytest.raises(BundleError, match=r"fp32.onnx has the hash .* it was altered, and is not opened"):
        read_bundle(bundle_folder)


def test_file_altered_after_the_check_is_not_loaded(bundle_folder: Path):
    """What is loaded is what was hashed, even if the file changes between opening the bundle and loading the model."""
    bundle = read_bundle(bundle_folder)
    content = bytearray((bundle_folder / MODEL).read_bytes())
    content[100] ^= 1
    (bundle_folder / MODEL).write_bytes(content)
    with pytest.raises(BundleError, match="it was altered"):
        bundle.read_bytes(bundle.manifest.default_subnet.models[0])


def test_file_cut_short_is_named_with_both_sizes(bundle_folder: Path):
    """An interrupted copy to the device is the likeliest damage."""
    content = (bundle_folder / MODEL).read_bytes()
    (bundle_folder / MODEL).write_bytes(content[:-10])
    with pytest.raises(BundleError, match=f"has {len(content) - 10} bytes; expected {len(content)}"):
        read_bundle(bundle_folder)


def test_missing_file_is_named(bundle_folder: Path):
    """The message must say which file of the bundle was not copied."""
    (bundle_folder / MODEL).unlink()
    with pytest.raises(BundleError, match=r"models/large/fp32.onnx is missing"):
        read_bundle(bundle_folder)


def test_link_out_of_the_folder_is_refused(bundle_folder: Path, tmp_path: Path):
    """A bundle from elsewhere must not make the server read other files, even ones with the right content."""
    outside = tmp_path / "outside.onnx"
    shutil.move(bundle_folder / MODEL, outside)
    (bundle_folder / MODEL).symlink_to(outside)
    with pytest.raises(BundleError, match="leads out of the bundle"):
        read_bundle(bundle_folder)


def test_link_inside_the_folder_is_followed(bundle_folder: Path):
    """Deduplicated copies of a bundle are still that bundle."""
    shutil.move(bundle_folder / MODEL, bundle_folder / "models" / "shared.onnx")
    (bundle_folder / MODEL).symlink_to("../shared.onnx")
    read_bundle(bundle_folder)


def test_link_in_a_circle_is_refused(bundle_folder: Path):
    """A link to itself must be an error message and no traceback."""
    (bundle_folder / MODEL).unlink()
    (bundle_folder / MODEL).symlink_to("fp32.onnx")
    with pytest.raises(BundleError, match="is missing"):
        read_bundle(bundle_folder)


def test_folder_or_pipe_in_place_of_a_file_is_refused(bundle_folder: Path):
    """Opening a pipe would wait for ever."""
    (bundle_folder / MODEL).unlink()
    os.mkfifo(bundle_folder / MODEL)
    with pytest.raises(BundleError, match="is not a file"):
        read_bundle(bundle_folder)


def test_half_written_bundle_is_refused(make_bundle: Callable[..., Path]):
    """A folder under its temporary name may look complete, but its writer has not said so."""
    with pytest.raises(BundleError, match="half-written bundle"):
        read_bundle(make_bundle(folder=".bundle.4711.tmp"))


def test_unfinished_neighbour_is_pointed_out(tmp_path: Path):
    """Whoever looks for the bundle of a killed extraction should learn that it was killed."""
    (tmp_path / ".bundle.4711.tmp").mkdir()
    with pytest.raises(BundleError, match=r"the unfinished .bundle.4711.tmp stands beside it"):
        read_bundle(tmp_path / "bundle")


def _edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "manifest.json").read_text()
    assert old in text
    (folder / "manifest.json").write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: shutil.rmtree(folder), "does not exist"),
        (lambda folder: (folder / "manifest.json").unlink(), r"holds no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "not valid JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "expected a JSON object"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), "not valid JSON"),
        (lambda folder: _edit(folder, '"search": {}', '"search": {"loss": NaN}'), r"search.loss is nan"),
    ],
)
def test_damaged_bundle_says_what_is_wrong(bundle_folder: Path, damage: Callable[[Path], object], said: str):
    """Every way a folder can fail to be a bundle has its own words."""
    damage(bundle_folder)
    with pytest.raises(BundleError, match=said):
        read_bundle(bundle_folder)


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path):
    """A path to the manifest itself is an easy slip."""
    (tmp_path / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(BundleError, match="is not a folder"):
        read_bundle(tmp_path / "manifest.json")
