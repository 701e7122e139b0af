"""How well a cost model fitted to times of whole subnets predicts others, and how few subnets suffice.

.venv/bin/python benchmarks/whole_net_fit.py ../shared/reference/measurements/help_ofa_mbv3_2080ti_titanrtx.csv \
    > benchmarks/results/whole_net_fit.json

The file is HELP's (Lee et al., NeurIPS 2021, MIT licence): 3,000 subnets of once-for-all's MobileNetV3, PyTorch on two
GPUs. For each number of subnets, several random choices are fitted and judged by all subnets that were not chosen.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from deps.ground.provenance import provenance
from deps.profile.fit import flops_line
from deps.profile.flops import cost_tables
from deps.profile.whole_fit import cross_validate, fit_prices, predict, quantities
from deps.profile.whole_nets import read_rows, read_whole_nets
from deps.supernet import get_space
from deps.supernet.sampling import Genes, columns, one_hot

SPACE = "ofa-mbv3-w1.2"
NUMBERS = (10, 15, 20, 30, 50, 100, 200, 500, 1000)
SEEDS = 20
WINDOW = 50
"""Rows of the file around a row, which were measured about when it was."""

Array = NDArray[np.float64]


def percent(values: list[float]) -> dict[str, float]:
    """Return the median, the best and the worst of some shares, in per cent."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return {"median": round(100 * middle, 2), "best": round(100 * low, 2), "worst": round(100 * high, 2)}


def errors(predicted: Array, measured: Array) -> Array:
    return np.asarray(np.abs(predicted / measured - 1))


def curve(rows: Array, flops: Array, times: Array) -> list[dict[str, Any]]:
    """Return the error on unseen subnets by the number of seen ones, over seeds; and that of the FLOPs line."""
    points = []
    for number in NUMBERS:
        of_fit, of_line = [], []
        for seed in range(SEEDS):
            order = np.random.default_rng(seed).permutation(len(times))
            seen, unseen = order[:number], order[number:]
            model = fit_prices(rows[seen], times[seen])
            of_fit.append(float(errors(predict(model, rows[unseen]), times[unseen]).mean()))
            line = flops_line(flops[seen], times[seen], flops[unseen])
            of_line.append(float(errors(line, times[unseen]).mean()))
        points.append({"subnets": number, "mape_percent": percent(of_fit), "flops_line_percent": percent(of_line)})
    return points


def boosted(genes: Genes, rows: Array, times: Array) -> float:
    """Return the five-fold error of gradient boosting on every choice: what is left then is not about subnets."""
    features = np.concatenate([rows, one_hot(get_space(SPACE), genes)], axis=1)
    fold = np.random.default_rng(0).permutation(len(times)) % 5
    found = np.empty(len(times))
    for k in range(5):
        model = HistGradientBoostingRegressor(
            loss="absolute_error", max_iter=200, learning_rate=0.05, max_leaf_nodes=8, random_state=0
        )
        found[fold == k] = np.exp(model.fit(features[fold != k], np.log(times[fold != k])).predict(features[fold == k]))
    return round(100 * float(errors(found, times).mean()), 2)


def by_calm(relative: Array, ratio: Array) -> dict[str, float]:
    """Return the error on rows that were measured in calm and in restless times, as the rows around each tell.

    A row's own time is left out of the judgement, so what a subnet takes cannot choose its group: where the two groups
    differ, *when* a subnet was measured decides its error.
    """
    count, half = len(ratio), WINDOW // 2
    restlessness = np.empty(count)
    for row in range(count):
        around = np.r_[ratio[max(0, row - half) : row], ratio[row + 1 : row + 1 + half]]
        restlessness[row] = np.percentile(around, 75)
    low, high = np.percentile(restlessness, [25, 75])
    groups = {"calmest_quarter": restlessness <= low, "most_restless_quarter": restlessness >= high}
    return {name: round(100 * float(relative[rows].mean()), 2) for name, rows in groups.items()}


def of_pairs(genes: Genes, ratio: Array) -> dict[str, float]:
    """Return how far the residuals of two subnets of one resolution are apart: of the most alike ones, and of any two.

    A model of subnets can take from residuals only what subnets that are alike have in common. Where these differ as
    much as any two of all resolutions, the rest is noise of the measurement.
    """
    space, rng = get_space(SPACE), np.random.default_rng(0)
    resolution = genes[:, columns(space).resolution]
    bits = one_hot(space, genes).astype(np.float32)
    alike = np.where(resolution[:, None] == resolution, bits @ bits.T, -1)
    np.fill_diagonal(alike, -1)
    closest = alike.max(axis=1) >= np.percentile(alike.max(axis=1), 90)
    peer = np.array([rng.choice(np.flatnonzero(resolution == own)) for own in resolution])
    other = rng.permutation(len(ratio))
    pairs = {
        "most_alike_tenth": (ratio / ratio[alike.argmax(axis=1)])[closest],
        "any_two_of_a_resolution": ratio / ratio[peer],
        "any_two": ratio / ratio[other],
    }
    return {name: round(100 * float(np.abs(found - 1).mean()), 2) for name, found in pairs.items()}


def column(path: Path, name: str) -> dict[str, Any]:
    """Return what is found for one device and batch."""
    space = get_space(SPACE)
    start = time.process_time()
    nets = read_whole_nets(path, space, column=name)
    rows = quantities(space, nets.genes)
    left_out = cross_validate(nets.genes, rows, nets.measured_ms)
    fit_prices(rows, nets.measured_ms)
    seconds = time.process_time() - start
    relative = errors(left_out.predicted_ms, nets.measured_ms)
    ratio = nets.measured_ms / left_out.predicted_ms
    return {
        "column": name,
        "cross_validated": {
            "subnets": len(relative),
            "mape_percent": round(100 * float(relative.mean()), 2),
            "gradient_boosting_mape_percent": boosted(nets.genes, rows, nets.measured_ms),
            "median_error_percent": round(100 * float(np.median(relative)), 2),
            "worst_percent": round(100 * float(relative.max()), 1),
            "flops_line_mape_percent": round(100 * float(errors(left_out.flops_line_ms, nets.measured_ms).mean()), 2),
            "measured_over_predicted_quantiles": {
                str(q): round(float(np.percentile(ratio, q)), 3) for q in (1, 5, 25, 50, 75, 95, 99)
            },
            "mape_percent_by_the_rows_around": by_calm(relative, ratio),
            "residuals_of_two_differ_by_percent": of_pairs(nets.genes, ratio),
            "residual_correlation_with_the_next_row": round(float(np.corrcoef(ratio[1:], ratio[:-1])[0, 1]), 3),
        },
        "read_fit_and_validate_cpu_seconds": round(seconds, 2),
        "curve": curve(rows, cost_tables(space)[0](nets.genes), nets.measured_ms),
    }


def main() -> None:
    path = Path(sys.argv[1])
    header, _ = read_rows(path)
    results = [column(path, name) for name in header if name.endswith("_ms")]
    answer = {"file": path.name, "space": SPACE, "seeds": SEEDS, "results": results, "provenance": provenance()}
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
