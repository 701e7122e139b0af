"""The command as a user types it: exit codes, what is on stdout and what on stderr, and signals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image

from deps.serve.bundle import read_bundle
from deps.serve.cli import main

DEADLINE_S = 30


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def _start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "deps.serve.cli", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _address(server: subprocess.Popen[str]) -> str:
    """Read the story until the address comes."""
    assert server.stderr is not None
    lines = []
    for line in server.stderr:
        lines.append(line)
        if found := re.search(r"serving at (http://\S+?:\d+)/v2", line):
            return found[1]
    raise AssertionError("".join(lines))


@pytest.mark.parametrize(("signal_sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_server_answers_until_it_is_told_to_stop(bundle_folder: Path, images, tiny, signal_sent: int, code: int):
    """A real process: it prints a real port and the engine's choice, answers, and ends with the promised code."""
    with _start(bundle_folder, "--port", "0", "--threads", "1") as server:
        url = _address(server)
        tensor = {"name": "input", "shape": [7, 1, 8, 8], "datatype": "FP32", "data": images.ravel().tolist()}
        answer = httpx.post(f"{url}/v2/models/tiny/infer", json={"inputs": [tensor]}, timeout=DEADLINE_S).json()
        logits_NV = np.array(answer["outputs"][0]["data"]).reshape(7, 10)
        np.testing.assert_allclose(logits_NV, tiny.logits(images), rtol=1e-4, atol=1e-4)
        server.send_signal(signal_sent)
        assert server.wait(DEADLINE_S) == code
        assert server.stdout is not None
        assert server.stdout.read() == ""


def test_request_under_way_is_answered_before_the_server_ends(bundle_folder: Path):
    """A deployment's restart must not cost an answer: the body is still arriving when SIGTERM comes."""
    with _start(bundle_folder, "--port", "0", "--threads", "1") as server:
        url = _address(server)
        tensor = {"name": "input", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.0] * 64}
        body = json.dumps({"inputs": [tensor]}).encode()

        def slowly():
            yield body[:20]
            server.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            yield body[20:]

        answer = httpx.post(f"{url}/v2/models/tiny/infer", content=slowly(), timeout=DEADLINE_S)
        assert answer.status_code == 200
        assert server.wait(DEADLINE_S) == 0


def test_json_start_is_one_object_with_the_address(bundle_folder: Path):
    """A script that starts a server on a free port reads where it is, and what runs the model."""
    with _start(bundle_folder, "--port", "0", "--quiet", "--json") as server:
        assert server.stdout is not None
        facts = json.loads(server.stdout.readline())
        assert httpx.get(f"{facts['url']}/v2/health/ready").status_code == 200
        assert (facts["model"], facts["subnet"], facts["precision"]) == ("tiny", "large", "fp32")
        server.terminate()
        assert server.wait(DEADLINE_S) == 0
        assert server.stdout.read() == ""


def test_open_address_is_warned_of(bundle_folder: Path):
    """Nobody should open a server to the world without having read so; --quiet does not hide it."""
    with _start(bundle_folder, "--port", "0", "--host", "0.0.0.0", "--quiet", "--json") as server:
        assert server.stderr is not None
        assert server.stdout is not None
        line = server.stderr.readline()
        address = f"http://127.0.0.1:{json.loads(server.stdout.readline())['url'].rpartition(':')[2]}"
        asked = [httpx.post(f"{address}/v2/repository/models/tiny/{verb}", timeout=10) for verb in ("load", "unload")]
        asked.append(httpx.get(f"{address}/v2/models/tiny", timeout=10))
        server.terminate()
        assert server.wait(DEADLINE_S) == 0
    assert line.startswith("warning: anyone who reaches 0.0.0.0 can use this server")
    assert [answer.status_code for answer in asked] == [403, 403, 200]  # strangers may ask, but not change anything


def test_server_with_everything_switched_on(make_bundle: Callable[..., Path], tmp_path: Path):
    """A folder of bundles, gRPC, a token from a file on an open address, and a log for machines."""
    shutil.copytree(make_bundle(name="one"), tmp_path / "models" / "a")
    shutil.copytree(make_bundle(name="two"), tmp_path / "models" / "b")
    (tmp_path / "token").write_text("a-secret-of-some-length\n")
    words = [
        "--repository",
        tmp_path / "models",
        "--load",
        "two",
        "--port",
        "0",
        "--grpc-port",
        "0",
        "--json",
        "--quiet",
    ]
    words += ["--host", "0.0.0.0", "--token-file", tmp_path / "token", "--log-format", "json", "--log-level", "info"]
    with _start(*words, "--threads", "1", "--watch", "0.05") as server:
        assert server.stdout is not None
        assert server.stderr is not None
        facts = json.loads(server.stdout.readline())
        assert facts["models"] == ["two"]
        url = facts["url"].replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}/v2/models/two").status_code == 401
        shown = {"Authorization": "Bearer a-secret-of-some-length"}
        assert httpx.post(f"{url}/v2/repository/models/one/load", headers=shown).status_code == 200
        with triton.InferenceServerClient(facts["grpc"].replace("0.0.0.0", "127.0.0.1")) as client:
            assert client.is_server_ready()
            assert client.is_model_ready("one", headers={"authorization": shown["Authorization"]})
        os.utime(tmp_path / "models" / "b" / "manifest.json")
        lines = map(json.loads, server.stderr)  # nothing but JSON: the story as well
        assert "two, subnet large, on onnxruntime" in next(lines)["message"]
        told = next(line for line in lines if line["message"] == "swapped two")
        assert (told["level"], told["model"]) == ("info", "two")
        server.terminate()
        assert server.wait(DEADLINE_S) == 0


def test_pictures_are_classified_without_a_server(bundle_folder: Path, picture: Path, tiny, capsys):
    """The answer stands on stdout, what ran it on stderr."""
    assert main(["run", str(bundle_folder), str(picture), str(picture), "--top", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    logits_V = tiny.logits(((np.asarray(Image.open(picture)) / 255 - 0.5) / 0.25)[None, None])[0]
    assert [entry["image"] for entry in answer["images"]] == [str(picture)] * 2
    for entry in answer["images"]:
        assert [found["index"] for found in entry["classes"]] == np.argsort(-logits_V)[:2].tolist()
    assert "tiny, subnet large, on onnxruntime fp32: the exact model on the processor" in err


def test_text_report_names_the_best_class_first(bundle_folder: Path, picture: Path, tiny, capsys):
    """What a person sees without flags."""
    assert main(["run", str(bundle_folder), str(picture), "--subnet", "large"]) == 0
    logits_V = tiny.logits(((np.asarray(Image.open(picture)) / 255 - 0.5) / 0.25)[None, None])[0]
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith(f"digit {logits_V.argmax()}")
    assert len(lines) == 7


def test_bench_reports_every_file_or_why_not(make_bundle: Callable[..., Path], capsys):
    """One line a batch, honest medians, and nothing left out in silence."""
    folder = make_bundle("rtx", precisions=("fp32", "fp16"))
    words = [
        "bench",
        str(folder),
        "--batches",
        "1,4",
        "--seconds",
        "0.02",
        "--json",
        "--threads",
        "1",
        "--target",
        "rtx",
    ]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    measured = {(timing["subnet"], timing["precision"], timing["batch"]) for timing in report["timings"]}
    assert measured >= {(subnet, "fp32", batch) for subnet in ("large", "small") for batch in (1, 4)}
    for timing in report["timings"]:
        assert 0 < timing["median_ms"] <= timing["p95_ms"]
        assert timing["calls"] >= 5
        assert timing["images_per_s"] == pytest.approx(1e3 * timing["batch"] / timing["median_ms"])
    assert len(report["left_out"]) + len({(t["subnet"], t["precision"], t["engine"]) for t in report["timings"]}) == 6
    assert main(["bench", str(folder), "--batches", "1", "--seconds", "0.01", "--subnet", "small"]) == 0
    assert "images/s" in capsys.readouterr().out


def test_bench_writes_what_it_measured_into_the_bundle(make_bundle: Callable[..., Path], capsys):
    """The server then knows what batches take before it has run one; what was not measured stays."""
    folder = make_bundle()
    words = ["bench", str(folder), "--batches", "1,2", "--seconds", "0.01", "--threads", "1", "--write", "--json"]
    assert main([*words, "--subnet", "small"]) == 0
    report = json.loads(capsys.readouterr().out)
    manifest = read_bundle(folder).manifest
    (file,) = manifest.subnet("small").models
    told = {str(timing["batch"]): pytest.approx(timing["median_ms"], abs=1e-3) for timing in report["timings"]}
    assert file.batch_ms == {"cpu": told}
    assert file.measured_ms == {"cpu": told["1"]}
    assert manifest.subnet("small").latency["cpu"].measured_ms == told["1"]
    assert manifest.subnet("large").models[0].batch_ms == {}


@pytest.mark.tensorrt
def test_build_writes_engines_and_says_which(make_bundle: Callable[..., Path], capsys):
    """For RTX this works on any machine."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    folder = make_bundle("rtx")
    assert main(["build", str(folder), "--subnet", "small", "--max-batch", "2"]) == 0
    out, err = capsys.readouterr()
    (engine,) = (folder / "engines").glob("*.engine")
    assert f"engines/{engine.name}" in out
    assert "building small fp32 for rtx, batch 1 to 2 with tensorrt_rtx" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["BUNDLE/absent"], "does not exist; expected a bundle folder"),
        (["run", "BUNDLE", "absent.png"], "absent.png cannot be read: No such file or directory"),
        (["run", "BUNDLE", "BUNDLE/manifest.json"], "manifest.json: the picture cannot be read"),
        (["run", "BUNDLE", "x.png", "--subnet", "medium"], "has no subnet 'medium'; expected one of large, small"),
        (["run", "BUNDLE", "x.png", "--precision", "fp16"], "has no fp16 file; expected one of fp32"),
        (["run", "BUNDLE", "x.png", "--target", "toaster"], "there is no target 'toaster'"),
        (["build", "BUNDLE"], "target cpu has no TensorRT"),
        (["bench", "BUNDLE", "--subnet", "medium"], "has no subnet 'medium'"),
        (["BUNDLE", "--host", "203.0.113.7"], "cannot listen on 203.0.113.7"),
        (["--port", "0"], "there is nothing to serve; expected a BUNDLE or --repository DIR"),
        (["--repository", "BUNDLE/models", "--port", "0"], "holds no bundle"),
        (["BUNDLE", "BUNDLE", "--port", "0"], "both answer to the name 'tiny'"),
        (["BUNDLE", "--port", "0", "--token-file", "BUNDLE/absent"], "absent cannot be read"),
        (["BUNDLE", "--port", "0", "--token", "short"], "the token of --token is empty, short"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_code_1(bundle_folder: Path, capsys, words: list[str], said: str):
    """No traceback for anything that a user can cause."""
    assert main([word.replace("BUNDLE", str(bundle_folder)) for word in words]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("deps-serve: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["run", "x"],
        ["x", "--port", "99999"],
        ["x", "--port", "http"],
        ["x", "--max-body", "32"],
        ["x", "--engine", "torch"],
        ["x", "--threads", "0"],
        ["bench", "x", "--batches", "1,x"],
        ["bench", "x", "--seconds", "nan"],
        ["build", "x", "--level", "9"],
    ],
)
def test_wrong_usage_is_code_2(words: list[str], capsys):
    """Told by argparse, before anything is opened."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: deps-serve" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["serve"], ["run"], ["build"], ["bench"]])
def test_help_ends_with_an_example(command: list[str], capsys):
    """The example is what people copy."""
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("example: deps-serve ")


def test_help_loads_nothing_heavy():
    """Help must come at once, on a device too."""
    code = (
        "import sys; from deps.serve.cli import build_parser; build_parser().format_help();"
        "heavy = {'numpy', 'onnxruntime', 'PIL', 'starlette', 'httptools', 'torch', 'importlib.metadata'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV_")}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.strip() == "[]"
