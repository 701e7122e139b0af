"""How much quicker is a training step on a processor when pointwise convolutions of small maps are matrix products?

    python benchmarks/pointwise.py > benchmarks/results/pointwise.json

For each space the largest and the smallest subnet's pass forward and back, 128 channels-last images, one thread, both
ways in turn in one process; then one layer by size of the map. Prints one JSON object: medians, and the median of the
ratios of neighbouring turns.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from deps.ground.allocator import keep_freed_memory
from deps.ground.provenance import provenance
from deps.supernet import ArchSpec, get_space, pointwise
from deps.supernet.network import network

SPACES = ("cifar-mbv3-tiny", "cifar-mbv3-narrow", "cifar-proxyless-tiny")
LAYERS = ((96, 16, 16), (96, 16, 8), (144, 24, 4), (336, 56, 2), (480, 120, 1))
"""Channels in, channels out, pixels a side."""

BATCH, TURNS = 128, 15
WAYS = {"torch_ms": 0, "ours_ms": pointwise.SMALL_MAP}


def compared(step: Callable[[], None], ways: dict[str, int]) -> dict[str, float]:
    """Return milliseconds of both ways, in turn; the first turn is a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS + 1):
        for name, limit in ways.items():
            pointwise.SMALL_MAP = limit
            start = time.perf_counter()
            step()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - start))
    ratios = [torch_ms / ours_ms for torch_ms, ours_ms in zip(*times.values(), strict=True)]
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    return {**medians, "ratio": round(statistics.median(ratios), 2)}


def of_space(name: str) -> list[dict[str, Any]]:
    """Return the steps of the largest and the smallest subnet."""
    space = get_space(name)
    side = space.resolutions[-1]
    x_NCHW = torch.randn(BATCH, space.in_channels, side, side).contiguous(memory_format=torch.channels_last)
    labels_N = torch.randint(space.num_classes, (BATCH,))
    rows = []
    for role, arch in (("largest", ArchSpec.largest(space)), ("smallest", ArchSpec.smallest(space))):
        module = network(space, arch).train().to(memory_format=torch.channels_last)

        def step(module: torch.nn.Module = module) -> None:
            torch.autograd.backward(F.cross_entropy(module(x_NCHW), labels_N))

        rows.append({"space": name, "subnet": role, **compared(step, WAYS)})
        print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def of_layer(channels_in: int, channels_out: int, side: int) -> dict[str, Any]:
    """Return one layer, forward and back, at any size of the map."""
    layer = pointwise.PointwiseConv2d(channels_in, channels_out, 1, bias=False).train()
    x_NCHW = torch.randn(BATCH, channels_in, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()

    def step() -> None:
        torch.autograd.backward(layer(x_NCHW).sum())

    shape = {"channels_in": channels_in, "channels_out": channels_out, "side": side}
    return {**shape, **compared(step, {"torch_ms": 0, "ours_ms": side * side})}


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    spaces = [row for name in SPACES for row in of_space(name)]
    layers = [of_layer(*shape) for shape in LAYERS]
    told = {"threads": 1, "batch": BATCH, "turns": TURNS, "spaces": spaces, "layers": layers}
    print(json.dumps({**told, "provenance": provenance()}, indent=2))


if __name__ == "__main__":
    main()
