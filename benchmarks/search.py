"""How good and how fast is the search? Against once-for-all's published accuracy predictor, under two budgets at once.

    python benchmarks/search.py REFERENCE

REFERENCE is a folder with ``ofa_acc_predictor.pth`` (an MLP 128-400-400-400-1, Apache-2.0, from the CompOFA repository)
and ``ort_cpu_mbv3_w1.2_224_blocks.json`` (a latency table of blocks). The objective is not additive, so no solver knows
its optimum; what is reached is compared with as many random proposals. Prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deps.extract.search import Function, Limit, Values, excess, in_chunks, search
from deps.ground.provenance import provenance
from deps.profile.flops import cost_tables
from deps.supernet import SearchSpace, get_space
from deps.supernet.sampling import Genes, active_blocks, columns, random_genes

RESOLUTION = 224
BUDGETS = ((300e6, 9.0, 0.8162, 0.8150), (400e6, 10.0, 0.8305, 0.8288), (500e6, 12.0, 0.8420, 0.8401))
"""FLOPs, milliseconds, and what the mean and the worst of five seeds should reach."""

SEEDS = 5
RANDOM_PROPOSALS = 1_000_000


def published_predictor(path: Path, space: SearchSpace) -> Function:
    """Return the predictor as a function of genes: 3 kernel and 3 expand bits a block, then 8 resolution bits."""
    tensors = [tensor.numpy() for tensor in torch.load(path, weights_only=True, map_location="cpu").values()]
    layers = [(tensors[i].T.copy(), tensors[i + 1]) for i in range(0, len(tensors), 2)]
    where, blocks = columns(space), np.arange(20)

    def predict(genes: Genes) -> Values:
        active, rows = active_blocks(space, genes), np.arange(len(genes))[:, None]
        x = np.zeros((len(genes), 128), np.float32)
        x[rows, 3 * blocks + genes[:, where.kernels]] = active
        x[rows, 60 + 3 * blocks + genes[:, where.expands]] = active
        x[:, 120 + (RESOLUTION - 112) // 16] = 1
        for index, (weight, bias) in enumerate(layers):
            x = x @ weight + bias
            if index < len(layers) - 1:
                np.maximum(x, 0, out=x)
        return x[:, 0].astype(np.float64)

    return predict


def block_latency(path: Path, space: SearchSpace) -> Function:
    """Return the milliseconds of a population, by a table of 20 blocks and 9 (kernel, expand) pairs."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    table, constant = np.array(plain["latency_ms"]), float(plain["constant_ms"])
    where, blocks = columns(space), np.arange(20)

    def latency(genes: Genes) -> Values:
        pairs = 3 * genes[:, where.kernels].astype(int) + genes[:, where.expands]
        return np.asarray((table[blocks, pairs] * active_blocks(space, genes)).sum(axis=1) + constant)

    return latency


def measure(reference: Path) -> list[dict[str, Any]]:
    """Return what was reached under each budget, with the time of each search."""
    space = replace(get_space("ofa-mbv3-w1.2"), resolutions=(RESOLUTION,))
    objective = published_predictor(reference / "ofa_acc_predictor.pth", space)
    latency = block_latency(reference / "ort_cpu_mbv3_w1.2_224_blocks.json", space)
    flops = cost_tables(space)[0]
    drawn = random_genes(space, RANDOM_PROPOSALS, np.random.default_rng(0))
    results = []
    for max_flops, max_ms, mean_wanted, worst_wanted in BUDGETS:
        limits = [Limit(flops, max_flops), Limit(latency, max_ms)]
        scores, seconds, evaluated = [], [], []
        for seed in range(SEEDS):
            start = time.thread_time()
            found = search(space, objective, limits, rng=np.random.default_rng(seed))
            seconds.append(time.thread_time() - start)
            scores.append(float(found.scores[0]))
            evaluated.append(found.evaluated)
        feasible = drawn[excess(limits, drawn) <= 0]
        results.append(
            {
                "budget": {"flops": max_flops, "milliseconds": max_ms},
                "mean": round(statistics.mean(scores), 4),
                "worst": round(min(scores), 4),
                "scores": [round(score, 4) for score in scores],
                "wanted": {"mean": mean_wanted, "worst": worst_wanted},
                "is_reached": statistics.mean(scores) >= mean_wanted and min(scores) >= worst_wanted,
                "random_proposals": {
                    "count": len(drawn),
                    "best": round(float(in_chunks(objective, feasible).max()), 4),
                },
                "median_cpu_s": round(statistics.median(seconds), 3),
                "evaluated": round(statistics.mean(evaluated)),
            }
        )
    return results


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python benchmarks/search.py REFERENCE", file=sys.stderr)
        return 2
    reference = Path(sys.argv[1])
    if not (reference / "ofa_acc_predictor.pth").exists():
        print(f"skipped: {reference} does not hold ofa_acc_predictor.pth", file=sys.stderr)
        return 0
    print(json.dumps({"seeds": SEEDS, "results": measure(reference), "provenance": provenance()}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
