"""The whole pipeline on real digits: train, profile, extract, serve; what is served is what was trained."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deps.extract.cli import main as extract
from deps.profile.cli import main as profile
from deps.serve.bundle import read_bundle
from deps.supernet import ArchSpec
from deps.supernet.evaluation import recalibrated_subnet
from deps.supernet.network import Network
from deps.train.cli import main as train
from deps.train.run import Run, open_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training on all the digits."""
    out = tmp_path_factory.mktemp("pipeline") / "runs" / "digits"
    flags = ["--epochs", "4", "--warmup-fraction", "0.25", "--epsilon-ramp", "1", "--evaluation-subnets", "1"]
    assert train(["digits", "--out", str(out), "--quiet", *flags]) == 0
    return out


@pytest.fixture(scope="module")
def bundle_folder(run_folder: Path) -> Path:
    """A bundle for the processor of this machine."""
    out = run_folder.parents[1] / "bundles" / "cpu"
    argv = ["--supernet", str(run_folder), "--flops", "300M", "--target", "cpu", "--out", str(out)]
    assert extract([*argv, "--samples", "16", "--quiet"]) == 0
    return out


@pytest.fixture(scope="module")
def address(bundle_folder: Path) -> Iterator[str]:
    """A real server on a free port, stopped by SIGTERM at the end."""
    command = [sys.executable, "-c", "import sys; from deps.serve.cli import main; sys.exit(main(sys.argv[1:]))"]
    precision = ["--precision", "fp32"]
    server = subprocess.Popen(
        [*command, str(bundle_folder), "--port", "0", *precision], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    told = ""
    for line in server.stderr:
        told += line
        if found := re.search(r"http://([\w.]+:\d+)", line):
            break
    else:
        pytest.fail(f"the server did not start:\n{told}")
    yield found[1]
    server.terminate()
    assert server.wait(30) == 0
    server.stderr.close()


def torch_subnet(run: Run, bundle: Path) -> Network:
    """The subnet of a bundle, taken out of the supernet once more."""
    supernet, data = run.supernet(), run.data()
    arch = ArchSpec.from_dict(supernet.space, read_bundle(bundle).manifest.default_subnet.arch)
    assert run.recipe is not None
    return recalibrated_subnet(supernet, arch, data.calibration(arch.resolution, images=run.recipe.calibration_images))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nvidias_client_gets_torchs_predictions_on_every_test_digit(
    run_folder: Path, bundle_folder: Path, address: str
):
    """Training, slicing, recalibration, ONNX, the runner, the protocol: end to end, by a client nobody here wrote."""
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

    run = open_run(run_folder)
    name = read_bundle(bundle_folder).manifest.name
    subnet, right, right_by_torch = torch_subnet(run, bundle_folder), 0, 0
    client = InferenceServerClient(address)
    try:
        assert client.is_server_live()
        assert client.is_model_ready(name)
        for index, (images, labels) in enumerate(run.data().test.batches(20)):
            is_binary = index % 2 == 0
            tensor = InferInput("input", list(images.shape), "FP32")
            tensor.set_data_from_numpy(images.numpy(), binary_data=is_binary)
            output = InferRequestedOutput("logits", binary_data=is_binary)
            logits = client.infer(name, [tensor], outputs=[output]).as_numpy("logits")
            with torch.no_grad():
                expected = subnet(images).numpy()
            np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
            assert (logits.argmax(1) == expected.argmax(1)).all()
            right += int((logits.argmax(1) == labels.numpy()).sum())
            right_by_torch += int((expected.argmax(1) == labels.numpy()).sum())
    finally:
        client.close()
    assert right == right_by_torch
    assert right > 150, "four epochs name well over half of the 300 digits"


def test_the_manifest_tells_the_accuracy_that_torch_has(run_folder: Path, bundle_folder: Path):
    """The number a person reads is the number that was measured, on images not trained on."""
    run = open_run(run_folder)
    subnet = torch_subnet(run, bundle_folder)
    with torch.no_grad():
        right = sum(int((subnet(x).argmax(1) == labels).sum()) for x, labels in run.data().test.batches(100))
    models = {model.precision: model for model in read_bundle(bundle_folder).manifest.default_subnet.models}
    assert models["fp32"].top1 == pytest.approx(right / 300)


def test_a_picture_is_classified_without_a_server(
    run_folder: Path, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A PNG of a digit is the same input as the array it was made from."""
    from deps.serve.cli import main as serve

    run = open_run(run_folder)
    test, subnet = run.data().test, torch_subnet(run, bundle_folder)
    pictures = []
    for index in range(5):
        Image.fromarray(test.pixels_NCHW[index, 0].numpy()).save(tmp_path / f"{index}.png")
        pictures.append(str(tmp_path / f"{index}.png"))
    assert serve(["run", str(bundle_folder), *pictures, "--json", "--top", "1", "--precision", "fp32"]) == 0
    told = json.loads(capsys.readouterr().out)
    with torch.no_grad():
        expected = subnet(test.preprocessing.normalise(test.pixels_NCHW[:5])).argmax(1).tolist()
    assert [_label(image) for image in told["images"]] == [str(digit) for digit in expected]


def _label(image: dict[str, Any]) -> str:
    (best,) = image["classes"]
    return str(best["label"])


def test_a_latency_budget_needs_a_table_and_then_holds(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Refused with the command that makes one; afterwards the prediction of the chosen subnet is within the budget."""
    argv = ["--supernet", str(run_folder), "--latency", "10ms", "--target", "cpu", "--out", str(tmp_path / "bundle")]
    table = run_folder / "latency" / "cpu.json"
    assert not table.exists()
    assert extract([*argv, "--samples", "16"]) == 1
    assert "deps-profile latency" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()

    # On a machine this busy the table may be noisy or no better than the FLOPs line: it is kept and marked.
    assert (
        profile(["latency", "--supernet", str(run_folder), "--target", "cpu", "--seconds", "4", "--force", "--quiet"])
        == 0
    )
    capsys.readouterr()
    assert extract([*argv, "--samples", "16", "--json"]) == 0
    json.loads(capsys.readouterr().out)
    latency = read_bundle(tmp_path / "bundle").manifest.default_subnet.latency["cpu"]
    assert latency.predicted_ms is not None
    assert 0 < latency.predicted_ms <= 10
