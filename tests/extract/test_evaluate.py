"""Measuring is exact, remembered, and survives being killed at any byte."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from deps.extract.evaluate import Evaluator, Measurements, supernet_sha256
from deps.ground.console import Story
from deps.ground.errors import RunError
from deps.supernet import Supernet
from deps.supernet.evaluation import Accuracy, measure, recalibrated_subnet
from deps.supernet.sampling import random_archs

QUIET = Story(quiet=True)


@pytest.fixture
def some(digits, rng):
    """Three subnets."""
    return random_archs(digits, 3, rng)


def test_a_measurement_is_the_accuracy_of_the_recalibrated_subnet(run, evaluator, some):
    """What guides the search is what is shipped."""
    data = run.data()
    subnet = recalibrated_subnet(run.supernet(), some[0], data.calibration(8, images=200))
    top1, loss = evaluator.measure(some[:1], QUIET)
    expected = measure(subnet, data.validation.batches(100))
    assert top1[0] == expected.top1
    assert loss[0] == pytest.approx(expected.loss, rel=1e-5)


def test_measurements_are_remembered_by_a_later_search(run, some, tmp_path):
    """A second extraction from the same run costs next to nothing."""
    path = tmp_path / "measurements.jsonl"
    first = Evaluator(run.supernet(), run.data(), cache=path, calibration_images=200)
    again = Evaluator(run.supernet(), run.data(), cache=path, calibration_images=200)
    np.testing.assert_array_equal(first.measure(some, QUIET), first.measure(some, QUIET))
    assert first.num_measured == 3
    later = Evaluator(run.supernet(), run.data(), cache=path, calibration_images=200)
    reverse, forward = np.array(later.measure(some[::-1], QUIET)), np.array(first.measure(some, QUIET))
    np.testing.assert_array_equal(reverse, forward[:, ::-1])
    assert later.num_measured == 0
    assert again.num_measured == 0


def test_other_weights_images_or_settings_are_not_mixed_up(run, some, tmp_path):
    """A number of another supernet would mislead the search in silence."""
    path = tmp_path / "measurements.jsonl"
    supernet, data = run.supernet(), run.data()
    Evaluator(supernet, data, cache=path, calibration_images=200).measure(some[:1], QUIET)
    altered = Supernet(supernet.space, {name: t.clone() for name, t in supernet.tensors.items()})
    altered.tensors["classifier.bias"][0] += 1e-3
    fewer = replace(data, validation=data.validation.first(100))
    for other in (
        Evaluator(altered, data, cache=path, calibration_images=200),
        Evaluator(supernet, fewer, cache=path, calibration_images=200),
        Evaluator(supernet, data, cache=path, calibration_images=100),
    ):
        assert other.measurements.get(some[0]) is None
    assert Evaluator(supernet, data, cache=path, calibration_images=200).measurements.get(some[0]) is not None


def test_a_file_cut_at_any_byte_loses_at_most_its_last_line(some, tmp_path):
    """A kill or a full disk may end a write anywhere."""
    path = tmp_path / "measurements.jsonl"
    whole = Measurements(path, {"a": 1})
    accuracies = [Accuracy(0.5, 1.5), Accuracy(0.25, 2.25), Accuracy(0.75, 0.7)]
    for arch, accuracy in zip(some, accuracies, strict=True):
        whole.add(arch, accuracy)
    content = path.read_bytes()
    last = content[:-1].rfind(b"\n") + 1
    for cut in range(last, len(content)):
        path.write_bytes(content[:cut])
        found = Measurements(path, {"a": 1})
        assert [found.get(arch) for arch in some[:2]] == accuracies[:2]
        assert found.get(some[2]) in (None, accuracies[2])
        found.add(some[2], Accuracy(0.125, 2.0))
        assert Measurements(path, {"a": 1}).get(some[2]) in (Accuracy(0.125, 2.0), accuracies[2])


def test_a_line_that_is_not_ours_is_passed_over(some, tmp_path):
    """A damaged cache must not stop an extraction: what it holds can be measured again."""
    path = tmp_path / "measurements.jsonl"
    path.write_text("[]\nnull\n{}\n" + json.dumps({"key": 3, "arch": [], "top1": "x"}) + "\n\x00\xff\n")
    found = Measurements(path, {})
    found.add(some[0], Accuracy(0.5, 1.0))
    assert Measurements(path, {}).get(some[0]) == Accuracy(0.5, 1.0)


def test_a_line_without_a_loss_is_measured_again(run, some, tmp_path):
    """Runs that were searched by an older version hold such lines; half a measurement would mislead in silence."""
    path = tmp_path / "measurements.jsonl"

    def evaluator():
        return Evaluator(run.supernet(), run.data(), cache=path, calibration_images=200)

    key = evaluator().measurements.key
    path.write_text("".join(json.dumps({"key": key, "arch": arch.to_dict(), "top1": 0.125}) + "\n" for arch in some))
    first = evaluator()
    measured = first.measure(some, QUIET)
    assert first.num_measured == 3
    assert 0.125 not in measured.top1
    again = evaluator()
    np.testing.assert_array_equal(again.measure(some, QUIET), measured)
    assert again.num_measured == 0


def test_a_loss_that_is_no_number_is_an_error_and_is_not_remembered(run, some, tmp_path):
    """A supernet whose training diverged has no best subnet."""
    supernet, path = run.supernet(), tmp_path / "measurements.jsonl"
    broken = Supernet(supernet.space, {name: t.clone() for name, t in supernet.tensors.items()})
    broken.tensors["classifier.bias"][0] = float("nan")
    with pytest.raises(RunError, match="diverged"):
        Evaluator(broken, run.data(), cache=path, calibration_images=200).measure(some, QUIET)
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_told_and_does_not_stop_the_search(run, some, tmp_path, capsys):
    """Runs are often shared read-only."""
    evaluator = Evaluator(run.supernet(), run.data(), cache=tmp_path / "missing" / "m.jsonl", calibration_images=200)
    assert len(evaluator.measure(some[:2], QUIET).loss) == 2
    assert capsys.readouterr().err.count("measurements are not kept") == 1


def test_the_hash_of_a_supernet_sees_every_weight(run):
    """It keys the cache and stands in every bundle."""
    supernet = run.supernet()
    assert supernet_sha256(supernet) == supernet_sha256(run.supernet())
    name = next(name for name, tensor in supernet.tensors.items() if tensor.ndim == 4)
    tensors = {key: tensor.clone() for key, tensor in supernet.tensors.items()}
    tensors[name].view(-1)[-1] = torch.nextafter(tensors[name].view(-1)[-1], torch.tensor(9.0))
    assert supernet_sha256(Supernet(supernet.space, tensors)) != supernet_sha256(supernet)
