"""A net that is timed has the nodes and types of the net that is shipped, in each precision."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from deps.extract.precision import convert
from deps.ground.errors import LatencyTableError
from deps.profile.kit import Kit
from deps.profile.precisions import NOISE_STD, WEIGHTS, in_precision, shared_files, shared_values
from deps.serve.manifest import Precision
from deps.supernet.onnx_graph import onnx_from_subnet
from deps.supernet.plan import NetworkPlan, parameter_shapes

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "cpu-int8", "trt-int8")


def shipped(subnet: NetworkPlan) -> onnx.ModelProto:
    """Return the float32 graph with noise inside, as extraction would write it."""
    rng = np.random.default_rng(0)
    weights = {name: 0.1 * rng.random(shape, np.float32) + 0.1 for name, shape in parameter_shapes(subnet).items()}
    return onnx_from_subnet(subnet, weights, eps=1e-5)


def edges(model: onnx.ModelProto) -> Counter[tuple[str, ...]]:
    """Count what each operator reads: the operators, or the types of constants, behind its inputs."""
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    types = {tensor.name: f"constant {tensor.data_type}" for tensor in model.graph.initializer}
    return Counter(
        (node.op_type, *[makers.get(name) or types.get(name) or "image" for name in node.input if name])
        for node in model.graph.node
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_graph_is_the_one_that_is_shipped(kit: Kit, precision: Precision) -> None:
    """The converters of extraction decide; what is timed must have the same operators on the same types."""
    net = next(kit.at(8, "held_out"))
    original = shipped(kit.plan_of(net))
    calibration = [np.random.default_rng(0).standard_normal((4, 1, 8, 8), np.float32)]
    expected = edges(convert(original, precision, calibration))
    written = edges(onnx.load(kit.path(net, precision), load_external_data=False))
    assert written == expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_graph_runs_and_neither_vanishes_nor_overflows(kit: Kit, precision: Precision) -> None:
    """Infinite and denormal numbers run at another speed than a trained net's."""
    net = next(kit.at(8, "held_out"))
    session = onnxruntime.InferenceSession(str(kit.path(net, precision)), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": np.random.default_rng(0).standard_normal((2, 1, 8, 8), np.float32)})
    assert np.isfinite(logits).all()
    assert 1e-3 < np.abs(logits).max() < 1e4


@pytest.mark.parametrize("precision", PRECISIONS)
def test_shared_files_hold_enough_for_the_largest_layer(kit: Kit, precision: Precision) -> None:
    """A graph that reads past the end of a file is refused by the runtime, on the device."""
    for net in (*kit.at(8, "designed", "held_out"), kit.probe):
        for tensor in onnx.load(kit.path(net, precision), load_external_data=False).graph.initializer:
            if tensor.external_data:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                assert entries["location"] in shared_files(precision)
                size = (Path(kit.folder) / precision / entries["location"]).stat().st_size
                assert int(entries["offset"]) + int(entries["length"]) <= size


def test_integers_are_of_seven_bits_and_spread(kit: Kit) -> None:
    """Eight-bit weights overflow on processors without VNNI."""
    noise = NOISE_STD * np.random.default_rng(0).standard_normal(10_000, np.float32)
    weights = np.frombuffer(shared_values("noise.int8", noise), np.int8)
    assert -64 <= weights.min() < -40
    assert 40 < weights.max() <= 63


def test_unknown_precision_is_refused(kit: Kit) -> None:
    """The name comes from the command line."""
    model = onnx_from_subnet(kit.plan_of(next(kit.at(8, "anchor"))), WEIGHTS, eps=0.0)
    with pytest.raises(LatencyTableError, match="precision is 'fp8'; expected one of fp32"):
        in_precision(model, "fp8")  # type: ignore[arg-type]
