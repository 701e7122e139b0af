"""How much quicker is a training step on a processor when the process keeps the memory that it frees?

    python benchmarks/allocator.py > benchmarks/results/allocator.json

For each space the full model's pass forward and back, 128 images, one thread, in fresh processes in turn with and
without ``deps.ground.allocator``. Prints one JSON object: medians of the processes' medians, the ratio of each pair,
page faults a step and the peak of resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from torch.nn import functional as F

from deps.ground.allocator import SETTINGS, keep_freed_memory
from deps.ground.provenance import provenance
from deps.supernet import ArchSpec, get_space
from deps.supernet.network import network

SPACES = ("digits", "cifar-mbv3-tiny", "cifar-mbv3-narrow")
BATCH, STEPS, PAIRS = 128, 9, 5


def steps(name: str, keeps: bool) -> dict[str, float]:
    """Run the steps in this process; return the median seconds of one, its page faults, and the peak in bytes."""
    if keeps and not keep_freed_memory():
        raise SystemExit("nothing to compare: the C library is not glibc, or the environment has its own settings")
    torch.set_num_threads(1)
    space = get_space(name)
    module = network(space, ArchSpec.largest(space)).train()
    side = space.resolutions[-1]
    x_NCHW = torch.randn(BATCH, space.in_channels, side, side).contiguous(memory_format=torch.channels_last)
    labels_N = torch.randint(space.num_classes, (BATCH,))
    seconds, faults = [], []
    for _ in range(STEPS):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.autograd.backward(F.cross_entropy(module(x_NCHW), labels_N))
        seconds.append(time.perf_counter() - start)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return {"seconds": statistics.median(seconds), "faults": statistics.median(faults), "peak_bytes": peak}


def compared(name: str) -> dict[str, Any]:
    """Return both ways of one space, in fresh processes in turn."""
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    runs: dict[str, list[dict[str, float]]] = {"usual": [], "keeps": []}
    for _ in range(PAIRS):
        for way, found in runs.items():
            command = [sys.executable, __file__, "--one", name, *(["--keeps"] if way == "keeps" else [])]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout))
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(runs["usual"], runs["keeps"], strict=True)]
    row: dict[str, Any] = {"space": name, "speedup": [round(ratio, 3) for ratio in ratios]}
    row["median_speedup"] = round(statistics.median(ratios), 3)
    for way, found in runs.items():
        row[way] = {
            "ms": round(1e3 * statistics.median(run["seconds"] for run in found), 1),
            "faults": round(statistics.median(run["faults"] for run in found)),
            "peak_mb": round(statistics.median(run["peak_bytes"] for run in found) / 1e6),
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", metavar="SPACE", help=argparse.SUPPRESS)
    parser.add_argument("--keeps", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(steps(args.one, args.keeps)))
        return
    rows = [compared(name) for name in SPACES]
    print(json.dumps({"batch": BATCH, "steps": STEPS, "spaces": rows, "provenance": provenance()}, indent=2))


if __name__ == "__main__":
    main()
