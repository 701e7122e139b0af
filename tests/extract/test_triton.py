"""A repository is what Triton reads: its own schema parses every config, and the files are those of the bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format

from deps.extract.cli import main
from deps.extract.triton import write_repository
from deps.ground.errors import BundleError
from deps.serve.bundle import Bundle, read_bundle
from deps.serve.manifest import BatchProfile, EngineFile
from deps.serve.targets import get_target

grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")


@pytest.fixture(scope="module")
def bundle(shipped: Path) -> Bundle:
    """A bundle for the CPU."""
    return read_bundle(shipped)


def config(place: Path):
    """Parse a config with the schema that Triton was built from; an unknown field raises."""
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse((place / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def test_a_subnet_becomes_a_model_with_its_shapes_batches_and_labels(bundle, tmp_path):
    """What the manifest says, in Triton's words."""
    report = write_repository(bundle, get_target("cpu"), tmp_path / "models")
    (model,) = report.models
    place = tmp_path / "models" / "digits-smallest"
    found = config(place)
    assert found.name == model.name == "digits-smallest"
    assert (found.backend, found.default_model_filename) == ("onnxruntime", "model.onnx")
    assert found.max_batch_size == get_target("cpu").max_batch
    assert [(t.name, list(t.dims), t.data_type) for t in found.input] == [("input", [1, 8, 8], 11)]  # TYPE_FP32
    assert [(t.name, list(t.dims), t.label_filename) for t in found.output] == [("logits", [10], "labels.txt")]
    assert found.instance_group[0].kind == 2  # KIND_CPU
    assert found.dynamic_batching.max_queue_delay_microseconds > 0
    assert max(found.dynamic_batching.preferred_batch_size) <= found.max_batch_size
    assert found.version_policy.latest.num_versions == 1
    assert (place / "labels.txt").read_text().split() == list("0123456789")
    best = bundle.manifest.default_subnet.model("cpu-int8")
    assert (place / "1" / "model.onnx").read_bytes() == bundle.read_bytes(best)


def test_raw_pixels_go_in_when_asked(shipped, tmp_path, capsys):
    """From the command line; bodies are a quarter as large then."""
    assert main(["triton", str(shipped), str(tmp_path / "models"), "--uint8", "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["models"][0]["precision"] == "cpu-int8"
    place = tmp_path / "models" / "digits-smallest"
    found = config(place)
    assert [(t.name, t.data_type) for t in found.input] == [("image", 2)]  # TYPE_UINT8
    model = onnx.load(place / "1" / "model.onnx")
    assert model.graph.input[0].name == "image"
    onnx.checker.check_model(model, full_check=True)


def test_engines_become_plans_and_those_for_rtx_are_passed_over(bundle, shipped, tmp_path):
    """Triton runs full TensorRT; the batch is the engine's own."""
    source = bundle.manifest.default_subnet.model("fp16")
    # Any file stands for the engine, which is only copied.
    full = EngineFile(
        path=source.path,
        sha256=source.sha256,
        size_bytes=source.size_bytes,
        built_from=source.sha256,
        key="a" * 64,
        subnet="digits-smallest",
        precision="fp16",
        runtime="tensorrt",
        runtime_version="10.3.0",
        profile=BatchProfile(min=1, opt=1, max=6),
    )
    engines = [full, replace(full, runtime="tensorrt_rtx")]
    bundles = [Bundle(bundle.folder, _with_engine(bundle.manifest, engine)) for engine in engines]
    report = write_repository(bundles[0], get_target("jetson"), tmp_path / "full")
    assert [(m.name, m.backend) for m in report.models] == [
        ("digits-smallest", "onnxruntime"),
        ("digits-smallest-fp16-trt", "tensorrt"),
    ]
    place = tmp_path / "full" / "digits-smallest-fp16-trt"
    assert (place / "1" / "model.plan").is_file()
    found = config(place)
    assert (found.backend, found.max_batch_size) == ("tensorrt", 6)
    assert list(found.dynamic_batching.preferred_batch_size) == [2, 4, 6]
    assert config(tmp_path / "full" / "digits-smallest").instance_group[0].kind == 1  # KIND_GPU
    report = write_repository(bundles[1], get_target("rtx"), tmp_path / "rtx")
    assert len(report.models) == 1
    assert "TensorRT for RTX, which Triton does not run" in report.notes[0]


def _with_engine(manifest, engine):
    """The manifest with an engine; paths must differ, so the fp16 model gives its own up."""
    subnet = manifest.default_subnet
    models = tuple(model for model in subnet.models if model.precision != "fp16")
    return replace(manifest, subnets=(replace(subnet, models=models),), engines=(engine,))


def test_a_family_becomes_several_models(bundle, tmp_path):
    """Whoever asks names one."""
    subnet = bundle.manifest.default_subnet
    renamed = tuple(replace(model, path=f"b/{model.precision}.onnx") for model in subnet.models)
    for model, other in zip(subnet.models, renamed, strict=True):
        place = tmp_path / "bundle" / other.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(bundle.read_bytes(model))
        original = tmp_path / "bundle" / model.path
        original.parent.mkdir(parents=True, exist_ok=True)
        original.write_bytes(bundle.read_bytes(model))
    family = replace(bundle.manifest, subnets=(subnet, replace(subnet, name="other", models=renamed)))
    report = write_repository(Bundle(tmp_path / "bundle", family), get_target("cpu"), tmp_path / "models")
    assert [model.name for model in report.models] == ["digits-smallest", "other"]
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"digits-smallest", "other"}


def test_what_stands_there_already_is_left_alone(bundle, tmp_path):
    """A repository may be in use by a server."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").write_text("")
    with pytest.raises(BundleError, match="new or an empty folder"):
        write_repository(bundle, get_target("cpu"), tmp_path / "models")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["mine"]
