"""How long an export takes: one MobileNetV3 at 224 pixels, a family of ten, and whether raw pixels slow a model down.

.venv/bin/python benchmarks/export.py --data FOLDER [--only one|family|raw] > benchmarks/results/export.json

FOLDER holds pictures in train/CLASS and val/CLASS. Weights are drawn at random and BatchNorm is recalibrated, which
costs what trained ones cost; accuracies of such a network mean nothing and are not told.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from deps.extract.export import Subnet, export_family
from deps.extract.images import CALIBRATION, COMPARED, JUDGED, count_of
from deps.extract.raw_input import IMAGE, checked_raw_input
from deps.ground.console import Story
from deps.ground.provenance import provenance
from deps.profile.flops import count
from deps.serve.engines.compose import with_raw_input
from deps.serve.engines.onnxruntime import usable_cores
from deps.supernet import ArchSpec, Supernet, get_space, recalibrate_bn
from deps.supernet.sampling import decode, random_genes
from deps.train.data import ImageData
from deps.train.datasets import load_data

RESOLUTION, REPEATS, ROUNDS = 224, 3, 60


def subnets(data: ImageData, members: int) -> list[Subnet]:
    """Return subnets of the published space with the data's classes: one in the middle, and random ones."""
    space = replace(get_space("ofa-mbv3-w1.0"), num_classes=len(data.classes))
    supernet = Supernet.create(space, seed=0)
    middle = ArchSpec.from_ofa(space, ks=[5] * 20, e=[4] * 20, d=[3] * 5, w=None, resolution=RESOLUTION)
    drawn = decode(space, random_genes(space, members - 1, np.random.default_rng(0)))
    archs = [middle, *[replace(arch, resolution=RESOLUTION) for arch in drawn]]
    batch = list(data.calibration(RESOLUTION, images=16, batch_size=8))
    found = []
    for arch in archs:
        network = supernet.subnet(arch)
        recalibrate_bn(network, batch)
        found.append(Subnet(space, arch, network, {}))
    return found


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return round(time.perf_counter() - wall, 2), round(time.process_time() - cpu, 2)


def export(data: ImageData, chosen: list[Subnet], repeats: int) -> dict[str, Any]:
    """Time the export of all precisions of some subnets, all checks included, images read from disk each time."""
    runs = [
        timed(lambda: export_family(chosen, data, Story(quiet=True), max_drop=100.0, seed=0)) for _ in range(repeats)
    ]
    walls = [wall for wall, _ in runs]
    return {
        "subnets": len(chosen),
        "multiply_adds": [count(one.space, one.arch).flops for one in chosen],
        "files": 4 * len(chosen),
        "median_wall_s": statistics.median(walls),
        "wall_s": walls,
        "cpu_s": [cpu for _, cpu in runs],
    }


def raw(data: ImageData, subnet: Subnet) -> dict[str, Any]:
    """Time one image as float32, normalised already, against the same image as raw pixels, in turns."""
    exports = export_family([subnet], data, Story(quiet=True), max_drop=100.0, seed=0, judged=8)[0]
    graph = checked_raw_input(data.preprocessing)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, RESOLUTION, RESOLUTION), dtype=np.uint8)
    images = data.preprocessing.normalise(torch.from_numpy(pixels)).numpy()
    results: dict[str, Any] = {}
    for entry in exports.entries:
        if entry.precision not in ("fp32", "cpu-int8"):
            continue
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        joined = with_raw_input(entry.content, graph)
        onnx.checker.check_model(onnx.load_from_string(joined))
        sessions = {
            "float32": (onnxruntime.InferenceSession(entry.content, options), {"input": images}),
            "uint8": (onnxruntime.InferenceSession(joined, options), {IMAGE: pixels}),
        }
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for number in range(ROUNDS + 5):
            for name, (session, feed) in sessions.items():
                start = time.perf_counter()
                session.run(None, feed)
                if number >= 5:
                    times[name].append(1e3 * (time.perf_counter() - start))
        medians = {name: statistics.median(values) for name, values in times.items()}
        ratios = [b / a for a, b in zip(times["float32"], times["uint8"], strict=True)]
        results[entry.precision] = {
            "median_ms": {name: round(value, 3) for name, value in medians.items()},
            "median_ratio": round(statistics.median(ratios), 4),
            "bytes": {"float32": images.nbytes, "uint8": pixels.nbytes},
        }
    return {"rounds": ROUNDS, "threads": 1, "batch": 1, **results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", choices=("one", "family", "raw"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("imagefolder", root=args.data)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "one": lambda: export(data, subnets(data, 1), REPEATS),
        "family": lambda: export(data, subnets(data, 10), 1),
        "raw": lambda: raw(data, subnets(data, 1)[0]),
    }
    results = {name: part() for name, part in parts.items() if args.only in (None, name)}
    images = {
        "calibration": count_of(CALIBRATION, RESOLUTION),
        "validation_and_test_each": count_of(JUDGED, RESOLUTION),
        "validation_and_test_each_in_a_family_of_ten": count_of(JUDGED, RESOLUTION, members=10),
        "compared_with_torch_each": count_of(COMPARED, RESOLUTION),
        "compared_with_torch_each_in_a_family_of_ten": count_of(COMPARED, RESOLUTION, members=10),
    }
    facts = {"resolution": RESOLUTION, "images": images, "cores": usable_cores(), **results, "provenance": provenance()}
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
