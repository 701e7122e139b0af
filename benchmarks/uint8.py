"""Two ways to take raw pixels: a graph that normalises in front of the model, or normalising while a batch is gathered.

Processor time of one thread, the two ways and plain float32 in turn, so that a busy machine slows all alike.

    .venv/bin/python benchmarks/uint8.py > benchmarks/results/uint8.json
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from models import MEAN, STD, large_224, write_bundle

from deps.extract.raw_input import raw_input_model
from deps.ground.provenance import provenance
from deps.serve.engines.compose import with_raw_input
from deps.serve.manifest import InputSpec
from deps.serve.staging import Staging
from deps.train.data import Preprocessing

ROUNDS = 60


def main() -> None:
    space, arch = large_224()
    folder = write_bundle(Path(tempfile.gettempdir()) / "deps-serving" / "m224", "m224", [("only", space, arch, None)])
    model = (folder / "models" / "only" / "fp32.onnx").read_bytes()
    raw = raw_input_model(Preprocessing(color="RGB", mean=MEAN, std=STD, resize=256, crop=224)).SerializeToString()
    plain, composed = (_session(content) for content in (model, with_raw_input(model, raw)))
    spec = InputSpec(shape=(3, 224, 224), color="RGB", mean=MEAN, std=STD, resize=256, crop=224)
    staging = Staging(spec)
    results = {}
    for batch in (1, 4, 8):
        pixels = np.random.default_rng(0).integers(0, 256, (batch, 3, 224, 224), dtype=np.uint8)
        floats = staging.gather([pixels], np.empty((batch, 3, 224, 224), np.float32))
        ways: dict[str, Callable[[], Any]] = {
            "float32": lambda floats=floats: plain.run(None, {"input": floats}),
            "gathered": lambda pixels=pixels, batch=batch: plain.run(
                None, {"input": staging.gather([pixels], staging.place(batch))}
            ),
            "composed": lambda pixels=pixels: composed.run(None, {composed.get_inputs()[0].name: pixels}),
        }
        difference = float(np.abs(ways["gathered"]()[0] - ways["composed"]()[0]).max())
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, run in ways.items():
                start = time.process_time()
                run()
                spent[name].append(1e3 * (time.process_time() - start) / batch)
        medians = {name: round(float(np.median(times)), 3) for name, times in spent.items()}
        results[batch] = {"cpu_ms_per_image": medians, "largest_difference": difference}
    print(json.dumps({"batches": results, "rounds": ROUNDS, "provenance": provenance()}, indent=1))


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
