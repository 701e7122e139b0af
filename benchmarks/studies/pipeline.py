"""The whole pipeline on the best supernet of the studies: latency table, subnets for three budgets, bundles, answers.

    python benchmarks/studies/pipeline.py --data DATA --runs FOLDER           into results/pipeline.json
    python benchmarks/studies/pipeline.py … --supernet methods/deps-0         from this run instead of the best one

Only the commands that users have are called: deps-profile, deps-extract, deps-extract verify, deps-serve bench,
deps-serve. Every test image goes over HTTP to a real server, in fp32, fp16 and int8. A step that is done
is kept in FOLDER/pipeline-…/steps.json with its seconds and not done again. Relies on ``run.py`` for the supernet, and
works on a copy, so that no seconds are saved by what was measured before.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from evidence import Evidence, mean_top
from jobs import Place, accuracy
from numpy.typing import NDArray
from run import RESULTS
from setting import SETTINGS
from tritonclient.http import InferenceServerClient, InferInput

from deps.ground.files import read_json, write_json
from deps.ground.provenance import provenance
from deps.supernet import ArchSpec, Supernet
from deps.train.data import ImageData
from deps.train.evaluate import calibrated

SCHEMA_VERSION = 1
PRECISIONS = ("fp32", "fp16", "cpu-int8")
TARGET, REQUEST = "cpu", 8


class Steps:
    """What was done, with its answer and its seconds, one JSON file that grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, dict[str, Any]] = read_json(path) if path.exists() else {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        """Return the answer of a step, from the file where it is done already."""
        if name not in self.done:
            print(f"now   {name}", flush=True)
            began = time.monotonic()
            answer = work()
            self.done[name] = {"answer": answer, "seconds": round(time.monotonic() - began, 1)}
            write_json(self.path, self.done)
        return self.done[name]["answer"]

    def seconds(self, name: str) -> float:
        return float(self.done[name]["seconds"])


def command(program: str, *words: str | Path) -> Any:
    """Run one of our commands with --json and return its answer."""
    line = [str(Path(sys.executable).with_name(program)), *map(str, words), "--json"]
    finished = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(finished.stdout)


def infer(client: InferenceServerClient, model: str, images_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return logits (N, classes), asked as NVIDIA's client asks."""
    tensor = InferInput("input", list(images_NCHW.shape), "FP32")
    tensor.set_data_from_numpy(images_NCHW)
    logits_NV = client.infer(model, [tensor]).as_numpy("logits")
    return np.asarray(logits_NV, dtype=np.float32)


def served_top1(bundle: Path, precision: str, data: ImageData) -> float:
    """Return top-1 on all test images, asked of a server of one precision."""
    line = [str(Path(sys.executable).with_name("deps-serve")), str(bundle), "--port", "0", "--precision", precision]
    server = subprocess.Popen([*line, "--engine", "onnxruntime"], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        found = next(filter(None, (re.search(r"http://[\w.]+:\d+", text) for text in server.stderr)), None)
        if found is None:
            raise SystemExit(f"deps-serve {bundle} --precision {precision} ended with {server.wait()}")
        model, right = read_json(bundle / "manifest.json")["name"], 0
        with InferenceServerClient(found[0].removeprefix("http://")) as client:
            for x_NCHW, labels_N in data.test.batches(REQUEST):
                right += int((infer(client, model, x_NCHW.numpy()).argmax(1) == labels_N.numpy()).sum())
    finally:
        server.terminate()
        server.wait(30)
    return right / len(data.test)


def for_processors(bundle: Path) -> Path:
    """Return a copy of a bundle whose manifest lets ONNX Runtime run its fp16 file.

    Bundles keep fp16 for TensorRT, since a processor's ONNX Runtime has no kernels for it and converts back and forth:
    no way to be quick, but its answers are those of the file.
    """
    copy = bundle.with_name(f"{bundle.name}-fp16")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(bundle, copy)
    manifest = read_json(copy / "manifest.json")
    for model in manifest["subnets"][0]["models"]:
        if model["precision"] == "fp16":
            model["backends"] = ["onnxruntime"]
    write_json(copy / "manifest.json", manifest)
    return copy


def best_supernet(found: Evidence) -> str:
    """Return the run of the studies with the best mean on validation images."""
    runs = found.by_study.get("methods", {})
    if not runs:
        raise SystemExit("no supernet is finished; run benchmarks/studies/run.py --only methods first")
    return "methods/" + max(runs, key=lambda name: mean_top(runs[name], "validation"))


def unmeasured(run: Path, folder: Path) -> Path:
    """Return a copy of a run that knows no latency table and no measured subnet: a new target begins with neither."""
    copy = folder / "supernet"
    if not copy.exists():
        names = shutil.ignore_patterns("latency", "measurements.jsonl", "checkpoints", "tensorboard", ".lock")
        whole = Path(shutil.copytree(run, folder / "supernet.part", ignore=names, dirs_exist_ok=True))
        whole.rename(copy)
    return copy


def shipped(steps: Steps, run: Path, folder: Path, budget: str, data: ImageData, args: Any) -> dict[str, Any]:
    """Extract, verify, time and serve one subnet."""
    bundle = folder / f"{TARGET}-{budget}"

    def extract() -> Any:
        words = ["--supernet", run, "--flops", budget, "--target", TARGET, "--samples", args.samples, "--out", bundle]
        return command("deps-extract", *words, "--max-drop", args.max_drop)["search"]["chosen"]

    steps(f"extract {budget}", extract)
    steps(f"verify {budget}", lambda: command("deps-extract", "verify", bundle, "--supernet", run)["files"])
    steps(f"bench {budget}", lambda: command("deps-serve", "bench", bundle, "--batches", "1", "--threads", "1"))
    manifest = read_json(bundle / "manifest.json")
    (entry,) = manifest["subnets"]
    arch = ArchSpec.from_dict(Supernet.load(run).space, entry["arch"])

    def by_torch() -> float:
        module = calibrated(Supernet.load(run), arch, data, images=args.calibration)
        return accuracy(module, data.test)

    precisions = {}
    for model in entry["models"]:
        if model["precision"] in PRECISIONS:
            name = model["precision"]
            place = for_processors(bundle) if name == "fp16" else bundle
            top1 = steps(f"serve {budget} {name}", functools.partial(served_top1, place, name, data))
            precisions[name] = {"http_top1": top1, "size_bytes": model["size_bytes"], "backends": model["backends"]}
    return {
        "budget": budget,
        "arch": entry["arch"],
        "flops": entry["flops"],
        "params": entry["params"],
        "latency": latency(entry["latency"][TARGET], steps.done[f"bench {budget}"]["answer"]),
        "torch_top1": steps(f"torch {budget}", by_torch),
        "precisions": precisions,
        "notes": manifest["notes"],
    }


def latency(foretold: dict[str, Any], bench: dict[str, Any]) -> dict[str, Any]:
    """Return what the table foretold for fp32, with its error, and the medians of the files that ran here."""
    measured = {timing["precision"]: round(timing["median_ms"], 4) for timing in bench["timings"]}
    return {"predicted_ms": foretold["predicted_ms"], "error_ms": foretold["error_ms"], "measured_ms": measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--setting", choices=SETTINGS, default="cifar10")
    parser.add_argument("--supernet", help="STUDY/JOB (default: the best of methods/ on validation images)")
    parser.add_argument("--samples", type=int, default=160, help="most subnets measured for the predictor")
    parser.add_argument("--seconds", type=int, default=10, help="of the latency table's runs")
    parser.add_argument("--max-drop", type=float, default=1.0, help="points that a precision may lose")
    parser.add_argument("--force", action="store_true", help="keep a latency table that is noisy")
    args = parser.parse_args()
    setting = SETTINGS[args.setting]
    args.calibration = setting.calibration_images
    place = Place(setting, args.runs, args.results, args.data)
    name = args.supernet or best_supernet(Evidence.read(args.results))
    folder = args.runs / f"pipeline-{name.replace('/', '-')}"
    folder.mkdir(parents=True, exist_ok=True)
    run = unmeasured(args.runs / name, folder)
    data = place.images(setting.whole_recipe())
    steps = Steps(folder / "steps.json")
    forced = ["--force"] if args.force else []
    words = ["latency", "--supernet", run, "--target", TARGET, "--seconds", args.seconds, *forced]
    table = steps("latency table", lambda: command("deps-profile", *words))
    subnets = [shipped(steps, run, folder, budget, data, args) for budget in setting.budgets]
    first, *others = setting.budgets
    seconds = {
        "latency table": steps.seconds("latency table"),
        f"first subnet ({first}): survey, search, export in four precisions, checks": steps.seconds(f"extract {first}"),
        "verify it": steps.seconds(f"verify {first}"),
    }
    later = {f"another subnet ({b}), nothing surveyed again": steps.seconds(f"extract {b}") for b in others}
    told = ["--supernet", name, "--samples", str(args.samples), "--seconds", str(args.seconds)]
    told += ["--max-drop", f"{args.max_drop:g}", *forced]
    content = {
        "schema_version": SCHEMA_VERSION,
        "setting": setting.name,
        "supernet": name,
        "command": shlex.join(["pipeline.py", *told]),
        "test_images": len(data.test),
        "table": {key: table[key] for key in ("error", "precision", "threads", "backend", "device")},
        "subnets": subnets,
        "seconds": seconds,
        "later_seconds": later,
        "where": provenance(),
    }
    write_json(args.results / "pipeline.json", content)
    print(f"wrote {args.results / 'pipeline.json'}")


if __name__ == "__main__":
    main()
