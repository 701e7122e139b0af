"""What is shipped was run; what computes something else, or loses too much, is not shipped."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from deps.extract import calibration, verify
from deps.extract.export import Subnet, export_family
from deps.extract.precision import widened
from deps.extract.verify import TOLERANCE, Candidate, Session, compare, judge
from deps.ground.console import Story
from deps.ground.errors import DataError, ExportError
from deps.supernet.evaluation import top1

QUIET = Story(quiet=True)


def test_every_precision_agrees_with_torch_and_keeps_its_accuracy(exports):
    """On real images; int8 answers for its accuracy, the others also for every logit."""
    assert [entry.precision for entry in exports.entries] == ["fp32", "fp16", "trt-int8", "cpu-int8"]
    for entry in exports.entries:
        assert entry.is_shipped, entry.why_left_out
        for agreement in (entry.validation, entry.test):
            assert agreement.images == 300
            if entry.precision in TOLERANCE:
                assert agreement.max_abs_error <= agreement.tolerance
            assert agreement.same_answer >= (0.999 if entry.precision == "fp32" else 0.85)
        assert entry.drop == pytest.approx(exports.torch_validation - entry.validation.top1)
    fp32 = exports.entries[0]
    assert (fp32.validation.top1, fp32.test.top1) == (exports.torch_validation, exports.torch_test)


def test_accuracies_are_those_of_the_file_that_is_shipped(exports, run, evaluator, smallest):
    """Counted again here from the bytes alone."""
    for entry in exports.entries:
        session = Session(onnx.load_from_string(entry.content), entry.precision)
        right = sum(
            int((session(x.numpy()).argmax(1) == labels.numpy()).sum()) for x, labels in run.data().test.batches(64)
        )
        assert right / 300 == pytest.approx(entry.test.top1)
    assert exports.torch_test == top1(evaluator.subnet(smallest), run.data().test.batches(300))


def test_files_say_where_they_came_from(exports):
    """A lone file on a device must lead back to its subnet."""
    for entry in exports.entries:
        properties = {p.key: p.value for p in onnx.load_from_string(entry.content).metadata_props}
        assert properties == {"deps.space": "digits", "deps.precision": entry.precision}


@pytest.fixture
def planted(digits, smallest, evaluator):
    """The smallest subnet with one channel so large that its neighbours are left no step of an int8 scale.

    The next layer takes the factor back, so in floating point the subnet is the same as before.
    """
    network = evaluator.subnet(smallest)
    weights, block = network.state_dict(), "stages.0.0"
    channel = int(weights[f"{block}.depthwise.norm.bias"].argmax())
    with torch.no_grad():
        weights[f"{block}.depthwise.norm.weight"][channel] *= 2000
        weights[f"{block}.depthwise.norm.bias"][channel] *= 2000
        weights[f"{block}.project.conv.weight"][:, channel] /= 2000
    return Subnet(digits, smallest, network, {})


def test_a_precision_that_loses_too_much_is_left_out_with_the_reason(run, planted):
    """A server must not answer worse than the table says."""
    (found,) = export_family([planted], run.data(), QUIET, max_drop=0.0, seed=0)
    left_out = {entry.precision: entry.why_left_out for entry in found.entries if not entry.is_shipped}
    assert set(left_out) == {"cpu-int8", "trt-int8"}
    for entry in found.entries:
        if entry.precision in left_out:
            assert entry.drop > 0
            assert f"loses {100 * entry.drop:.2f} points" in entry.why_left_out
            assert "--max-drop is 0" in entry.why_left_out
            assert any(note.startswith(f"{entry.precision} left out: loses") for note in found.notes())


def test_a_precision_that_was_repaired_is_shipped_and_says_how(run, planted):
    """The same net with room for what int8 costs it: one channel, and the layers around it in floating point."""
    (found,) = export_family([planted], run.data(), QUIET, max_drop=4.0, seed=0)
    repaired = [entry for entry in found.entries if entry.how]
    assert repaired
    for entry in repaired:
        assert entry.is_shipped
        assert 100 * entry.drop <= 4.0
        assert "layers in floating point" in entry.how or "ranges by" in entry.how
        assert any(note == f"{entry.precision}: {entry.how}" for note in found.notes())


def test_members_of_a_family_are_exported_as_they_are_alone(run, digits, smallest, evaluator, exports):
    """They share decoded images and nothing else, so the files are the same bytes."""
    one = Subnet(digits, smallest, evaluator.subnet(smallest), {"deps.space": "digits"})
    family = export_family([one, one], run.data(), QUIET, max_drop=100.0, seed=0, judged=20)
    for member in family:
        assert [entry.content for entry in member.entries] == [entry.content for entry in exports.entries]
        assert {entry.validation.images for entry in member.entries} == {20}


def test_a_graph_is_opened_once_for_all_that_it_answers(run, digits, smallest, evaluator, monkeypatch):
    """Opening costs as much as ten photos, and a family has forty files: one for each, its ranges, and one twin."""
    opened, real = [], verify.open_session

    def counted(model, what, **settings):
        opened.append(what)
        return real(model, what, **settings)

    monkeypatch.setattr(verify, "open_session", counted)
    monkeypatch.setattr(calibration, "open_session", counted)
    one = Subnet(digits, smallest, evaluator.subnet(smallest), {})
    export_family([one, one], run.data(), QUIET, max_drop=100.0, seed=0, judged=20)
    assert sorted(opened) == sorted(2 * ["calibration", "fp32", "fp16", "trt-int8", "trt-int8", "cpu-int8"])


def test_where_torch_answers_no_more_trt_int8_counts_in_float32(run, smallest, evaluator, exports):
    """At export and when a bundle is checked: one was refused for 25 of 4,900 answers, counted in two arithmetics."""
    again = Candidate(onnx.load_from_string(exports.entries[2].content), "trt-int8")
    first, *others = run.data().validation.batches(20)
    found = judge([again], evaluator.subnet(smallest), [first, *others], compared=20).agreements["trt-int8"]
    wide = Session(widened(again.model), "trt-int8")

    def right(session: Session, batch: tuple[torch.Tensor, torch.Tensor]) -> int:
        return int((session(batch[0].numpy()).argmax(1) == batch[1].numpy()).sum())

    assert found.compared == 20
    assert found.top1 * found.images == pytest.approx(right(again.session, first) + sum(right(wide, b) for b in others))


def test_a_graph_that_computes_something_else_is_caught(exports, run, evaluator, smallest):
    """Whatever goes wrong in an exporter must show here, however small it looks in the file."""
    model = onnx.load_from_string(exports.entries[0].content)
    subnet, batches = evaluator.subnet(smallest), list(run.data().validation.batches(100))
    assert compare(model, "fp32", subnet, batches).is_within_tolerance
    weight = next(t for t in model.graph.initializer if t.name.endswith("weight"))
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.05
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    assert not compare(model, "fp32", subnet, batches).is_within_tolerance


def test_a_graph_that_gives_nan_is_caught(exports, run, evaluator, smallest):
    """Comparisons with NaN are false, which must not pass for agreement."""
    model = onnx.load_from_string(exports.entries[0].content)
    bias = next(t for t in model.graph.initializer if t.name == "classifier.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    found = compare(model, "fp32", evaluator.subnet(smallest), run.data().validation.batches(100))
    assert found.max_abs_error == float("inf")
    assert not found.is_within_tolerance


def test_a_graph_that_is_not_valid_is_refused(exports):
    """Before any runtime is given it."""
    model = onnx.load_from_string(exports.entries[0].content)
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ExportError, match=r"not valid ONNX|cannot load"):
        Session(model, "fp32")


def test_no_images_are_no_agreement(exports, evaluator, smallest):
    """An empty split would otherwise agree with everything."""
    with pytest.raises(DataError, match="empty"):
        compare(onnx.load_from_string(exports.entries[0].content), "fp32", evaluator.subnet(smallest), [])


def test_notes_are_plain_json(exports):
    """They go into the manifest."""
    assert json.loads(json.dumps(exports.notes())) == []
