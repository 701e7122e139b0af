"""How long does the gradient of a depthwise filter take, ours and torch's own, on one thread of a processor?

    python benchmarks/depthwise.py > benchmarks/results/depthwise.json

The two in turn, medians of seven. Prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from deps.ground.provenance import provenance
from deps.supernet.depthwise import weight_gradient

SHAPES = ((96, 32, 3), (96, 32, 5), (96, 32, 7), (480, 7, 5), (480, 7, 7), (480, 2, 3))
"""Channels, pixels a side, kernel."""

BATCH, ROUNDS = 64, 7


def by_torch(x_NCHW: Tensor, gradient_NCHW: Tensor, kernel: int) -> Tensor:
    """Return the gradient of the filters from torch's own kernel."""
    channels, padding = x_NCHW.shape[1], kernel // 2
    weight_C1kk = torch.empty(channels, 1, kernel, kernel)
    mask = [False, True, False]
    _, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient_NCHW, x_NCHW, weight_C1kk, None, [1, 1], [padding, padding], [1, 1], False, [0, 0], channels, mask
    )
    assert isinstance(of_weight, Tensor)
    return of_weight


def ours(x_NCHW: Tensor, gradient_NCHW: Tensor, kernel: int) -> Tensor:
    """Return the same from ``supernet/depthwise.py``."""
    return weight_gradient(x_NCHW, gradient_NCHW, kernel, 1, kernel // 2)


def main() -> None:
    torch.set_num_threads(1)
    ways: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {"torch": by_torch, "ours": ours}
    rows = []
    for channels, side, kernel in SHAPES:
        x_NCHW, gradient_NCHW = torch.randn(2, BATCH, channels, side, side)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(ROUNDS + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                way(x_NCHW, gradient_NCHW, kernel)
                if turn:  # The first is a warm-up.
                    times[name].append(1e3 * (time.perf_counter() - start))
        medians = {f"{name}_ms": round(statistics.median(values), 2) for name, values in times.items()}
        rows.append({"channels": channels, "side": side, "kernel": kernel, "batch": BATCH, **medians})
    print(json.dumps({"threads": 1, "rounds": ROUNDS, "layers": rows, "provenance": provenance()}, indent=2))


if __name__ == "__main__":
    main()
