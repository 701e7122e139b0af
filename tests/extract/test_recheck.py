"""A bundle is believed only as far as it can be checked again, and what does not hold is named."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deps.extract.cli import main


@pytest.fixture
def copy(shipped: Path, tmp_path: Path) -> Path:
    """A bundle of one's own."""
    return Path(shutil.copytree(shipped, tmp_path / "bundle"))


def verify(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict]:
    code = main(["verify", *words, "--json", "--quiet"])
    return code, json.loads(capsys.readouterr().out)


def alter(bundle: Path, path: str, change) -> None:
    """Change a file and have the manifest vouch for the change, as a careless hand would."""
    place = bundle / path
    content = change(place.read_bytes())
    place.write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    for file in [*manifest["subnets"][0]["models"], manifest["raw_input"]]:
        if file["path"] == path:
            file |= {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_as_it_was_written_holds_and_says_what_was_checked(shipped, run, capsys):
    """With the run at hand: hashes, accuracies of every precision, and every logit against torch."""
    code, report = verify(capsys, str(shipped), "--supernet", str(run.folder))
    assert code == 0
    assert report["holds"] is True
    assert report["unchecked"] == []
    *models, raw = report["files"]
    assert len(models) == 4
    for file in models:
        assert file["mismatch"] is None
        told = " ".join(file["checks"])
        for check in ("hash", "valid ONNX", "validation top-1", "test top-1", "of 300", "largest error"):
            assert check in told
    assert raw["checks"] == ["hash", "normalises as the manifest says"]


def test_without_the_run_it_says_what_is_left_unchecked(shipped, capsys):
    """A device has the bundle and nothing else."""
    assert main(["verify", str(shipped), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "not checked: accuracies and logits against torch; name the run with --supernet RUN" in out
    assert out.splitlines()[-1].endswith("every file holds")


def test_a_file_that_was_altered_is_named_and_the_others_are_checked_all_the_same(copy, capsys):
    """Exit 1; one bad file does not hide what is known of the others."""
    path = copy / "models/digits-smallest/fp16.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, report = verify(capsys, str(copy))
    assert code == 1
    wrong = [file["path"] for file in report["files"] if file["mismatch"]]
    assert wrong == ["models/digits-smallest/fp16.onnx"]
    assert "has the hash" in next(file["mismatch"] for file in report["files"] if file["mismatch"])


def test_weights_that_answer_otherwise_are_found_though_the_hash_is_right(copy, run, capsys):
    """A manifest that was edited along with a file is caught by running it."""

    def change(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        bias = next(t for t in model.graph.initializer if t.name == "classifier.bias")
        values = numpy_helper.to_array(bias).copy()
        values[0] += 50
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))
        return model.SerializeToString()

    alter(copy, "models/digits-smallest/cpu-int8.onnx", _scaled_bias)
    alter(copy, "models/digits-smallest/fp32.onnx", change)
    code, report = verify(capsys, str(copy), "--supernet", str(run.folder))
    assert code == 1
    wrong = {file["path"].rpartition("/")[2]: file["mismatch"] for file in report["files"] if file["mismatch"]}
    assert set(wrong) == {"fp32.onnx", "cpu-int8.onnx"}
    assert "the manifest says" in wrong["fp32.onnx"]


@pytest.mark.parametrize(
    ("precision", "off", "holds"),
    [("fp32", 1, True), ("fp32", 4, False), ("trt-int8", 4, True), ("trt-int8", 9, False)],
)
def test_a_count_may_differ_by_what_rounding_explains(copy, run, capsys, precision, off, holds):
    """A bundle was refused on the machine that had just made it, for 6 of 4,900 answers in trt-int8."""
    manifest = json.loads((copy / "manifest.json").read_text())
    file = next(f for f in manifest["subnets"][0]["models"] if f["precision"] == precision)
    images = manifest["provenance"]["checks"]["test_images"]
    file["top1"] -= off / images
    (copy / "manifest.json").write_text(json.dumps(manifest))
    code, report = verify(capsys, str(copy), "--supernet", str(run.folder))
    assert (code == 0) is holds
    wrong = [found["path"] for found in report["files"] if found["mismatch"]]
    assert wrong == ([] if holds else [f"models/digits-smallest/{precision}.onnx"])


def _scaled_bias(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    scale = next(t for t in model.graph.initializer if t.name == "classifier.weight_scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(-3), scale.name))
    return model.SerializeToString()


def test_a_graph_that_is_not_the_manifests_is_found(copy, capsys):
    """Not ONNX at all, or of another shape."""
    alter(copy, "models/digits-smallest/fp16.onnx", lambda _: b"not a graph at all")
    alter(copy, "models/uint8.onnx", lambda content: content.replace(b"image", b"imago"))
    code, report = verify(capsys, str(copy))
    assert code == 1
    assert {f["path"] for f in report["files"] if f["mismatch"]} == {
        "models/digits-smallest/fp16.onnx",
        "models/uint8.onnx",
    }


def test_another_run_is_told_from_the_bundles_own(copy, run, capsys):
    """Logits of other weights say nothing; the fp32 file then stands for torch."""
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["provenance"]["source"]["supernet_sha256"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    code, report = verify(capsys, str(copy), "--supernet", str(run.folder))
    assert code == 0
    assert "is not the run that the bundle names" in report["unchecked"][0]


def test_what_is_no_bundle_is_refused(tmp_path, capsys):
    """In one line."""
    assert main(["verify", str(tmp_path), "--quiet"]) == 1
    assert "holds no manifest.json" in capsys.readouterr().err
