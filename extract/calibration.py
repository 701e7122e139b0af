"""Watch the values inside a graph on training images, once, and derive from them the ranges that int8 is to cover.

Relies on the graph being the float32 one, whose convolutions and linear layers are what is quantised; all precisions
and all ways to choose a range share the one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from deps.extract.parallel import map_in_threads
from deps.extract.session import open_session
from deps.ground.errors import DataError, ExportError
from deps.supernet.onnx_graph import INPUT

QUANTIZED_OPERATORS = ("Conv", "Gemm")
"""All others gain next to nothing from eight bits."""

Method: TypeAlias = Literal["minmax", "percentile", "mse"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "mse")
"""Ways to choose a range: all that was seen; all but one value in a thousand; what rounds with the least error."""

PERCENTILE = 99.9
SAMPLE = 1024
"""Values of each tensor that are kept of each image."""


class Range(NamedTuple):
    """What a tensor's values lie between."""

    low: float
    high: float


@dataclass(frozen=True, eq=False, slots=True)
class Calibration:
    """What was seen of every tensor that may be quantised."""

    seen: Mapping[str, Range]
    sample: Mapping[str, NDArray[np.float32]]
    """Some values of each, the same number of every image."""

    images: int

    def ranges(self, method: Method) -> dict[str, Range]:
        """Return the range of each tensor, chosen in one way."""
        return {name: self._range(name, method) for name in self.seen}

    def _range(self, name: str, method: Method) -> Range:
        low, high = self.seen[name]
        if method == "minmax":
            return Range(low, high)
        values = self.sample[name]
        if method == "percentile":
            share = (100 - PERCENTILE) / 2
            inner = np.percentile(values, [share, 100 - share])
            return Range(min(float(inner[0]), 0.0), max(float(inner[1]), 0.0))
        # A narrower range rounds most values better, and cuts a few off.
        shrunk = [Range(low * share, high * share) for share in np.linspace(0.2, 1.0, 17)]
        return min(shrunk, key=lambda found: _rounding_error(values, found))


def _rounding_error(values: NDArray[np.float32], found: Range) -> float:
    """Return the mean squared error of 8 bits over a range."""
    low, high = min(found.low, 0.0), max(found.high, 0.0)
    step = max((high - low) / 255, 1e-12)
    rounded = np.round(np.clip(values, low, high) / step) * step
    return float(np.mean((values - rounded) ** 2))


def calibrated_names(model: onnx.ModelProto) -> list[str]:
    """Return the tensors that quantised layers take and give; a ReLU or clip behind one is part of it."""
    graph, names = Readers(model), []
    for node in model.graph.node:
        if node.op_type in QUANTIZED_OPERATORS:
            names += [node.input[0], graph.result(node)]
    return list(dict.fromkeys(names))


class Readers:
    """Which nodes read a tensor."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def result(self, node: onnx.NodeProto) -> str:
        """Return what a layer gives: the output of the ReLU or clip behind it, where nothing else reads its own."""
        readers = self._readers.get(node.output[0], [])
        if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
            return str(readers[0].output[0])
        return str(node.output[0])


def observe(model: onnx.ModelProto, batches: Iterable[NDArray[Any]]) -> Calibration:
    """Run the float32 graph on training images and note the values of every tensor that may be quantised.

    Args:
        model: the float32 graph.
        batches: images, each of shape (N, C, H, W).

    Raises:
        DataError: there was no image.
        ExportError: a value is not finite.
    """
    names = calibrated_names(model)
    watched = onnx.shape_inference.infer_shapes(model)
    given = {value.name for value in (*watched.graph.input, *watched.graph.output)}
    inside = [value for value in watched.graph.value_info if value.name in names and value.name not in given]
    watched.graph.output.extend(inside)
    fetched = [name for name in names if name != INPUT]
    session = open_session(watched, "calibration", num_threads=1)

    def look(batch: NDArray[Any]) -> tuple[int, dict[str, tuple[float, float, NDArray[np.float32]]]]:
        found = dict(zip(fetched, session.run(fetched, {INPUT: np.ascontiguousarray(batch)}), strict=True))
        found[INPUT] = batch
        return len(batch), {name: _glance(found[name]) for name in names}

    looks = list(map_in_threads(look, batches))
    images = sum(count for count, _ in looks)
    if not images:
        raise DataError("int8 cannot be calibrated without images; expected at least one; give training images")
    seen, sample = {}, {}
    for name in names:
        lows, highs, values = zip(*(found[name] for _, found in looks), strict=True)
        seen[name] = Range(float(min(lows)), float(max(highs)))
        sample[name] = np.concatenate(values)
        if not np.isfinite(seen[name]).all():
            raise ExportError(
                f"{name} is not finite on training images; expected numbers; the training diverged: "
                "take an earlier checkpoint"
            )
    return Calibration(seen, sample, images)


def _glance(values: NDArray[Any]) -> tuple[float, float, NDArray[np.float32]]:
    """Return the smallest and the largest value, and some of each image at steps that no row or plane repeats."""
    flat = values.reshape(len(values), -1)
    step = max(1, flat.shape[1] // SAMPLE) | 1
    return float(values.min()), float(values.max()), flat[:, ::step][:, :SAMPLE].astype(np.float32).ravel()
