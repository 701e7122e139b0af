"""Repair an int8 graph that loses too much: try other ranges, then leave the layers that suffer most in floating point.

Relies on the loss of a graph being measured on validation images by whoever asks, and on a rehearsal in which each
layer is quantised alone, so that one run ranks them all. What was done is told, whether it helped or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from deps.extract.calibration import METHODS, Calibration, Method
from deps.extract.quantize import Scheme, quantizable, quantize, rehearsed
from deps.extract.session import open_session
from deps.supernet.onnx_graph import INPUT

LARGEST_SHARE = 1 / 3
"""Of the layers that may stay in floating point; with more of them nothing would be gained by int8."""


class Quantized(NamedTuple):
    """An int8 graph and how it came about."""

    model: onnx.ModelProto
    method: Method
    excluded: tuple[str, ...]
    """Layers that stay in floating point, worst first."""

    layers: int
    """How many could be quantised."""

    drop: float | None
    """Points of accuracy lost, where it was measured."""

    tries: int
    """How many graphs were measured."""

    def describe(self) -> str:
        """Return what is not as usual, or an empty text."""
        parts = [] if self.method == "minmax" else [f"ranges by {_NAMES[self.method]}"]
        if self.excluded:
            named = ", ".join(self.excluded[:4]) + (", ..." if len(self.excluded) > 4 else "")
            parts.append(f"{len(self.excluded)} of {self.layers} layers in floating point ({named})")
        return "; ".join(parts)


_NAMES = {"minmax": "all that was seen", "percentile": "percentile 99.9", "mse": "least squared error"}


def plain(model: onnx.ModelProto, calibration: Calibration, scheme: Scheme) -> Quantized:
    """Quantise everything, with ranges that hold all values that were seen."""
    graph = quantize(model, calibration.ranges("minmax"), scheme)
    return Quantized(graph, "minmax", (), len(quantizable(model)), None, 0)


def repair(
    model: onnx.ModelProto,
    calibration: Calibration,
    scheme: Scheme,
    images: NDArray[Any],
    *,
    first: Quantized,
    drop_of: Callable[[onnx.ModelProto], float],
    max_drop: float,
) -> Quantized:
    """Return the int8 graph that loses no more than allowed with the fewest layers left out, else the best found.

    Args:
        model: the float32 graph.
        calibration: what was seen of its tensors.
        scheme: how numbers become integers.
        images: some training images (N, C, H, W), on which layers are ranked.
        first: what loses too much, measured already.
        drop_of: measures the points of accuracy that a graph loses on validation images.
        max_drop: how many are allowed.
    """
    assert first.drop is not None
    best, tries = first, first.tries

    def attempt(method: Method, excluded: Sequence[str]) -> Quantized:
        nonlocal best, tries
        graph = quantize(model, calibration.ranges(method), scheme, excluded=excluded)
        tries += 1
        found = Quantized(graph, method, tuple(excluded), first.layers, drop_of(graph), tries)
        assert found.drop is not None
        assert best.drop is not None
        if found.drop < best.drop:
            best = found
        return found

    for method in METHODS[1:]:
        if (found := attempt(method, ())).drop is not None and found.drop <= max_drop:
            return found
    method = best.method
    worst = ranking(model, calibration, scheme, images, method)
    largest = int(LARGEST_SHARE * len(worst))
    fewest, enough = 0, None
    count = 1
    while count <= largest and enough is None:
        found = attempt(method, worst[:count])
        if found.drop is not None and found.drop <= max_drop:
            enough = found
        else:
            fewest, count = count, count * 2
    # Between the last that was not enough and the first that was, look for fewer.
    while enough is not None and len(enough.excluded) - fewest > 1:
        middle = (len(enough.excluded) + fewest) // 2
        found = attempt(method, worst[:middle])
        if found.drop is not None and found.drop <= max_drop:
            enough = found
        else:
            fewest = middle
    return (enough or best)._replace(tries=tries)


def ranking(
    model: onnx.ModelProto, calibration: Calibration, scheme: Scheme, images: NDArray[Any], method: Method
) -> list[str]:
    """Return the layers by what quantising each alone costs, the worst first.

    The cost is the squared error of what a layer gives, as a share of its variance, channel by channel.
    """
    graph, twins = rehearsed(model, calibration.ranges(method), scheme)
    names = sorted({name for pair in twins.values() for name in pair})
    declared = onnx.shape_inference.infer_shapes(graph)
    outputs = {value.name for value in declared.graph.output}
    declared.graph.output.extend(v for v in declared.graph.value_info if v.name in names and v.name not in outputs)
    session = open_session(declared, "rehearsal", is_literal=True, num_threads=1)
    values = dict(zip(names, session.run(names, {INPUT: np.ascontiguousarray(images)}), strict=True))
    costs = {layer: _cost(values[given], values[twin]) for layer, (given, twin) in twins.items()}
    return sorted(costs, key=lambda layer: -costs[layer])


def _cost(given: NDArray[Any], found: NDArray[Any]) -> float:
    """Return the mean over channels (axis 1) of the squared error as a share of the variance, at most 1 each.

    One channel that is far larger than its neighbours would hide that they are lost, if all were taken together.
    """
    axes = tuple(axis for axis in range(given.ndim) if axis != 1)
    error_C = np.mean((found - given) ** 2, axis=axes, dtype=np.float64)
    variance_C = np.var(given, axis=axes, dtype=np.float64)
    return float(np.mean(np.minimum(error_C / np.maximum(variance_C, 1e-12), 1.0)))
