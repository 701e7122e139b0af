"""How many architectures a second are counted, on one core: multiply-adds, parameters, activations, weights together.

.venv/bin/python benchmarks/costs.py > benchmarks/results/costs.json
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import numpy as np

from deps.ground.provenance import provenance
from deps.profile.flops import costs
from deps.supernet import SearchSpace, get_space, space_names
from deps.supernet.sampling import random_genes

ROWS, REPEATS = 1_000_000, 5


def measure(space: SearchSpace) -> dict[str, Any]:
    """Return the median and the spread of several counts of a million random subnets, and what the first call adds."""
    genes = random_genes(space, ROWS, np.random.default_rng(0))
    start = time.perf_counter()
    costs(space, genes[:1])
    first_s = time.perf_counter() - start
    wall, cpu = [], []
    for _ in range(REPEATS):
        start, start_cpu = time.perf_counter(), time.thread_time()
        costs(space, genes)
        wall.append(time.perf_counter() - start)
        cpu.append(time.thread_time() - start_cpu)
    return {
        "space": space.name,
        "median_wall_s": round(statistics.median(wall), 3),
        "median_cpu_s": round(statistics.median(cpu), 3),
        "min_wall_s": round(min(wall), 3),
        "max_wall_s": round(max(wall), 3),
        "tables_built_s": round(first_s, 3),
        "archs_per_cpu_second": round(ROWS / statistics.median(cpu), -3),
    }


def main() -> None:
    results = [measure(get_space(name)) for name in space_names()]
    print(json.dumps({"rows": ROWS, "repeats": REPEATS, "results": results, "provenance": provenance()}, indent=2))


if __name__ == "__main__":
    main()
