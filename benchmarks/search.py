"""How good and how fast is the search? Against once-for-all's published accuracy predictor, under two budgets at once.

    python benchmarks/search.py REFERENCE

REFERENCE is a folder with ``ofa_acc_predictor.pth`` (an MLP 128-400-400-400-1, Apache-2.0, from the CompOFA repository)
and ``ort_cpu_mbv3_w1.2_224_blocks.json`` (a latency table of blocks). The objective is not additive, so no solver knows
its optimum. Beside ours, in the same run: once-for-all's own evolution, pymoo's NSGA-II, and random proposals. Prints
one JSON object; needs the extra ``dev``.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rivals import nsga2, once_for_all

from deps.extract.costs import Cost, cost_functions
from deps.extract.published_predictor import load_predictor
from deps.extract.search import Limit, Values, excess, in_chunks
from deps.extract.seek import Sought, seek
from deps.ground.provenance import provenance
from deps.profile.additive import LinearForm
from deps.supernet import SearchSpace, get_space
from deps.supernet.sampling import Genes, active_blocks, columns, random_genes

RESOLUTION = 224
BUDGETS = ((300e6, 9.0, 0.8162, 0.8150), (400e6, 10.0, 0.8305, 0.8288), (500e6, 12.0, 0.8420, 0.8401))
"""FLOPs, milliseconds, and what the mean and the worst of five seeds should reach."""

SECONDS = 0.5
"""What one search may take, on one core."""

SEEDS = 5
RANDOM_PROPOSALS = 1_000_000


def block_latency(path: Path, space: SearchSpace) -> Cost:
    """Return the milliseconds of a population, by a table of 20 blocks and 9 (kernel, expand) pairs."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    table, constant = np.array(plain["latency_ms"]), float(plain["constant_ms"])
    where, blocks = columns(space), np.arange(20)

    def latency(genes: Genes) -> Values:
        pairs = 3 * genes[:, where.kernels].astype(int) + genes[:, where.expands]
        return np.asarray((table[blocks, pairs] * active_blocks(space, genes)).sum(axis=1) + constant)

    form = LinearForm(constant, tuple(row.reshape(3, 3) for row in table), 0.0)
    return Cost(latency, lambda _: form)


def timed(search: Callable[[int], tuple[float, int]]) -> dict[str, Any]:
    """Return what a search reaches over the seeds, and the processor time of one."""
    scores, evaluated, seconds = [], [], []
    for seed in range(SEEDS):
        start = time.thread_time()
        score, scored = search(seed)
        seconds.append(time.thread_time() - start)
        scores.append(score)
        evaluated.append(scored)
    return {
        "mean": round(statistics.mean(scores), 4),
        "worst": round(min(scores), 4),
        "scores": [round(score, 4) for score in scores],
        "median_cpu_s": round(statistics.median(seconds), 3),
        "longest_cpu_s": round(max(seconds), 3),
        "evaluated": round(statistics.mean(evaluated)),
    }


def measure(reference: Path) -> list[dict[str, Any]]:
    """Return what each search reaches under each budget, with its time."""
    space = replace(get_space("ofa-mbv3-w1.2"), resolutions=(RESOLUTION,))
    objective = load_predictor(reference / "ofa_acc_predictor.pth", space)
    latency = block_latency(reference / "ort_cpu_mbv3_w1.2_224_blocks.json", space)
    flops = cost_functions(space, None)["flops"]
    drawn = random_genes(space, RANDOM_PROPOSALS, np.random.default_rng(0))
    # The first call imports the solver and builds the cost tables; no search should pay for that.
    seek(space, objective, [Limit(flops, 300e6), Limit(latency, 9.0)], rng=np.random.default_rng(99))
    results = []
    for max_flops, max_ms, mean_wanted, worst_wanted in BUDGETS:
        limits = [Limit(flops, max_flops), Limit(latency, max_ms)]
        sought: list[Sought] = []

        def ours(seed: int, limits: list[Limit] = limits, sought: list[Sought] = sought) -> tuple[float, int]:
            sought.append(seek(space, objective, limits, rng=np.random.default_rng(seed)))
            return float(sought[-1].result.scores[0]), sought[-1].result.evaluated

        def theirs(seed: int, limits: list[Limit] = limits) -> tuple[float, int]:
            return once_for_all(space, objective, limits, np.random.default_rng(seed))

        def pymoos(seed: int, limits: list[Limit] = limits) -> tuple[float, int]:
            return nsga2(space, objective, limits, flops, seed)

        found = timed(ours)
        yardstick = sought[0].yardstick
        assert yardstick is not None
        feasible = drawn[excess(limits, drawn) <= 0]
        results.append(
            {
                "budget": {"flops": max_flops, "milliseconds": max_ms},
                "wanted": {"mean": mean_wanted, "worst": worst_wanted, "longest_cpu_s": SECONDS},
                "is_reached": found["mean"] >= mean_wanted
                and found["worst"] >= worst_wanted
                and found["longest_cpu_s"] <= SECONDS,
                "deps": found,
                "once_for_all": timed(theirs),
                "nsga2": timed(pymoos),
                "random": {"best": round(float(in_chunks(objective, feasible).max()), 4), "evaluated": len(drawn)},
                "additive_model": {
                    "bound": round(yardstick.bound, 4),
                    "objective_of_its_optimum": yardstick.objective and round(yardstick.objective, 4),
                    "mean_error": round(yardstick.error, 5),
                },
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
