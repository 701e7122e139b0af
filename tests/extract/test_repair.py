"""Int8 that collapses is repaired: by other ranges, else by leaving out the layers that suffer most, as few as do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from deps.extract.calibration import METHODS, observe
from deps.extract.quantize import PROCESSOR, TENSORRT, quantizable, quantize
from deps.extract.repair import LARGEST_SHARE, plain, ranking, repair
from deps.extract.session import open_session
from deps.extract.verify import top1_of
from deps.ground.errors import DataError, ExportError
from deps.supernet.onnx_graph import onnx_from_subnet
from deps.supernet.plan import plan

BLOCK = "stages.0.0"


@pytest.fixture(scope="module")
def planted(run, digits, smallest, evaluator) -> onnx.ModelProto:
    """A subnet with one channel two thousand times larger than its neighbours; the next layer takes the factor back.

    In floating point it is the same subnet as before.
    """
    subnet = evaluator.subnet(smallest)
    weights = subnet.state_dict()
    channel = int(weights[f"{BLOCK}.depthwise.norm.bias"].argmax())
    with torch.no_grad():
        weights[f"{BLOCK}.depthwise.norm.weight"][channel] *= 2000
        weights[f"{BLOCK}.depthwise.norm.bias"][channel] *= 2000
        weights[f"{BLOCK}.project.conv.weight"][:, channel] /= 2000
    state = {name: tensor.numpy() for name, tensor in weights.items()}
    return onnx_from_subnet(plan(digits, smallest), state, eps=digits.norm_eps)


@pytest.fixture(scope="module")
def images(run):
    """Training images, in batches."""
    return [batch.numpy() for batch in run.data().calibration(8, images=200)]


@pytest.fixture(scope="module")
def calibration(planted, images):
    """What was seen inside."""
    return observe(planted, images)


@pytest.mark.parametrize("scheme", [TENSORRT, PROCESSOR])
def test_the_layers_around_the_outlier_are_ranked_worst(planted, calibration, images, scheme):
    """One run of the rehearsal must find what was planted."""
    order = ranking(planted, calibration, scheme, images[0], "minmax")
    assert sorted(order) == sorted(quantizable(planted))
    assert {order[0], order[1]} & {f"{BLOCK}.project.conv", f"{BLOCK}.depthwise.conv"}


@pytest.mark.parametrize(("precision", "scheme"), [("trt-int8", TENSORRT), ("cpu-int8", PROCESSOR)])
def test_an_outlier_that_ruins_int8_costs_a_layer_or_two(planted, calibration, images, run, precision, scheme):
    """The whole graph would be lost otherwise; here at most a third of its layers, measured on validation images."""
    batches = list(run.data().validation.batches(100))

    def right(model):
        return top1_of(model, precision, batches)

    reference, first = top1_of(planted, "fp32", batches), plain(planted, calibration, scheme)
    before = 100 * (reference - right(first.model))
    found = repair(
        planted,
        calibration,
        scheme,
        images[0],
        first=first._replace(drop=before, tries=1),
        drop_of=lambda model: 100 * (reference - right(model)),
        max_drop=before / 2,
    )
    assert before > 1
    assert found.drop == pytest.approx(100 * (reference - right(found.model)))
    assert found.drop <= before / 2
    assert len(found.excluded) <= LARGEST_SHARE * found.layers
    assert found.describe()
    assert 2 <= found.tries < 20


def test_what_cannot_be_repaired_is_the_best_that_was_found(planted, calibration, images):
    """A budget of tries, not an endless search; the reason then names how many there were."""
    losses = iter(np.linspace(50, 30, 40))
    first = plain(planted, calibration, PROCESSOR)._replace(drop=60.0, tries=1)
    found = repair(
        planted, calibration, PROCESSOR, images[0], first=first, drop_of=lambda _: next(losses), max_drop=1.0
    )
    assert found.tries <= 10
    assert found.drop == min(50 - 20 / 39 * k for k in range(found.tries - 1))


@pytest.mark.parametrize("needed", range(1, 10))
def test_no_more_layers_are_left_out_than_it_takes(planted, calibration, images, monkeypatch, needed: int):
    """Each costs time on the device; the search doubles, then halves, so every number between must come out right."""
    monkeypatch.setattr("deps.extract.repair.LARGEST_SHARE", 1.0)
    first = plain(planted, calibration, TENSORRT)._replace(drop=60.0, tries=1)
    assert needed < first.layers
    asked = []

    def drop_of(model: onnx.ModelProto) -> float:
        made = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
        layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
        asked.append(sum(node.input[1] not in made for node in layers))
        return 0.5 if asked[-1] >= needed else 50.0

    found = repair(planted, calibration, TENSORRT, images[0], first=first, drop_of=drop_of, max_drop=1.0)
    assert len(found.excluded) == needed
    assert found.excluded == tuple(ranking(planted, calibration, TENSORRT, images[0], found.method)[:needed])
    assert found.drop == 0.5
    assert found.tries == 1 + len(asked)
    assert len(asked) == len(METHODS[1:]) + len(set(asked) - {0})  # nothing is measured twice


def test_excluded_layers_stay_in_floating_point(planted, calibration):
    """And all others do not."""
    left_out = f"{BLOCK}.project.conv"
    graph = quantize(planted, calibration.ranges("minmax"), TENSORRT, excluded=[left_out]).graph
    makers = {node.output[0]: node.op_type for node in graph.node}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            is_quantised = makers.get(node.input[1]) == "DequantizeLinear"
            assert is_quantised == (node.name != left_out), node.name


def test_ranges_of_every_method_lie_within_what_was_seen(calibration):
    """And one outlier moves only the first."""
    seen = calibration.ranges("minmax")
    for method in METHODS[1:]:
        found = calibration.ranges(method)
        assert all(found[name].high <= seen[name].high + 1e-6 for name in seen)
    widest = max(seen, key=lambda name: seen[name].high)
    assert calibration.ranges("percentile")[widest].high < seen[widest].high


@pytest.mark.parametrize("scheme", [TENSORRT, PROCESSOR])
def test_steps_are_taken_as_they_stand_when_asked(planted, calibration, images, scheme):
    """As ONNX's own reference computes them; onnxruntime would otherwise put integer kernels in their place."""
    graph = quantize(planted, calibration.ranges("mse"), scheme)
    (expected,) = ReferenceEvaluator(graph).run(None, {"input": images[0][:8]})
    (found,) = open_session(graph, "int8", is_literal=True).run(None, {"input": images[0][:8]})
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_nothing_is_calibrated_without_images_or_with_nan(planted, images):
    """Ranges of nothing would be quietly wrong."""
    with pytest.raises(DataError, match="without images"):
        observe(planted, [])
    with pytest.raises(ExportError, match="not finite"):
        observe(planted, [np.full_like(images[0], np.nan)])
