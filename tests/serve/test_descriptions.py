"""What the server says of its models agrees with the manifest, and reads as NVIDIA's clients expect."""

from __future__ import annotations

import dataclasses

import pytest

from deps.serve.bundle import read_bundle
from deps.serve.descriptions import model_config, model_metadata, server_metadata
from deps.serve.manifest import Manifest
from deps.serve.signature import signatures


@pytest.fixture(scope="module")
def manifest(make_bundle) -> Manifest:
    return read_bundle(make_bundle()).manifest


def test_metadata_says_what_the_manifest_says(manifest: Manifest):
    """Clients build their requests from this."""
    renamed = dataclasses.replace(manifest, input=dataclasses.replace(manifest.input, name="x"))
    metadata = model_metadata(signatures(renamed)[0], "onnxruntime")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("tiny", ["1"], "onnxruntime_onnx")


def test_configuration_holds_what_nvidias_image_client_asks_for(manifest: Manifest):
    """It wants a batch size, a format of three dimensions, and dims without the batch."""
    config = model_config(signatures(manifest)[0], "tensorrt", max_batch=8, facts={"subnet": "large"})
    assert (config["max_batch_size"], config["platform"]) == (8, "tensorrt_plan")
    assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "format": "FORMAT_NCHW", "dims": [1, 8, 8]}]
    assert config["output"] == [{"name": "logits", "data_type": "TYPE_FP32", "dims": [10]}]
    assert config["parameters"] == {"subnet": {"string_value": "large"}}


def test_server_names_its_extensions():
    """A client asks before it uses one."""
    metadata = server_metadata("1.2")
    assert metadata["version"] == "1.2"
    assert {"binary_tensor_data", "classification", "statistics", "model_repository"} <= set(metadata["extensions"])
