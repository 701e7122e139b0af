"""From a run to a bundle that serves: for every target, within every budget, the same each time."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deps.extract import Budget, ExtractConfig, Extraction, ExtractReport, extract
from deps.extract.evaluate import Measured
from deps.extract.landscape import top1_at
from deps.ground.console import Story
from deps.profile.latency import find_table
from deps.serve.bundle import read_bundle
from deps.supernet import ArchSpec
from deps.supernet.sampling import all_genes, encode
from deps.train.run import Run

QUIET = Story(quiet=True)


@pytest.fixture(scope="session")
def make(run: Run, tmp_path_factory: pytest.TempPathFactory):
    """Extract with few samples, into a place of its own."""

    def make(target: str, budget: Budget, **settings) -> ExtractReport:
        out = tmp_path_factory.mktemp("bundles") / "bundle"
        # No precision is left out, however weak this supernet is.
        config = {"samples": 16, "finalists": 3, "max_drop": 100.0, "out": out, "supernet": run.folder, **settings}
        (report,) = extract(ExtractConfig(targets=(target,), budget=budget, **config), QUIET).reports
        return report

    return make


@pytest.fixture(scope="session")
def cpu(make) -> ExtractReport:
    """A bundle for the CPU within 500k FLOPs."""
    return make("cpu", Budget(max_flops=500_000))


def test_the_bundle_is_read_by_the_server_and_says_what_was_found(cpu, digits, run):
    """The reader checks every hash; what it reads is what the report told."""
    manifest = read_bundle(cpu.bundle).manifest
    assert manifest == cpu.manifest
    entry = manifest.default_subnet
    assert entry.flops <= 500_000
    assert ArchSpec.from_dict(digits, entry.arch) == cpu.members[0].arch
    assert [model.precision for model in entry.models] == ["fp32", "fp16", "trt-int8", "cpu-int8"]
    assert entry.models[0].top1 == cpu.members[0].exports.torch_test
    assert entry.models[0].top1_validation == cpu.members[0].exports.torch_validation
    assert manifest.labels == tuple("0123456789")
    assert manifest.input.shape == (1, 8, 8)
    assert manifest.input.mean == run.data().preprocessing.mean
    assert manifest.provenance["source"]["run"] == "digits"


def test_the_chosen_has_the_lowest_loss_of_those_measured_that_are_as_accurate(cpu):
    """Search exploits the predictor's errors, so the last word has a measurement."""
    search = cpu.manifest.search
    chosen, least = search["chosen"], search["best_top1"] - search["standard_error"]
    assert chosen["arch"] == cpu.members[0].arch.to_dict()
    assert cpu.members[0].exports.torch_validation == chosen["measured_top1"] >= least
    assert len(search["finalists"]) == 3
    for finalist in search["finalists"]:
        assert finalist["measured_top1"] < least or finalist["measured_loss"] >= chosen["measured_loss"]
        assert finalist["predicted_loss"] > 0
    assert chosen["is_finalist"] == (chosen["arch"] in [finalist["arch"] for finalist in search["finalists"]])
    assert 1 <= search["within_standard_error"] <= search["measured_within_budget"] <= 16 + 3


def test_the_same_inputs_give_the_same_bundle_but_for_the_time(cpu, make):
    """Byte for byte, the plot included."""
    again = make("cpu", Budget(max_flops=500_000))
    one, two = (json.loads((report.bundle / "manifest.json").read_text()) for report in (cpu, again))
    for manifest in (one, two):
        del manifest["provenance"]["time"]
    assert one == two
    files = sorted(path.relative_to(cpu.bundle) for path in cpu.bundle.rglob("*") if path.is_file())
    assert Path("report/pareto.png") in files
    assert Path("README.md") in files
    for path in files:
        if path.name != "manifest.json":
            assert (cpu.bundle / path).read_bytes() == (again.bundle / path).read_bytes(), path


@pytest.fixture(scope="module")
def shared(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    """A family of three that two targets share, within 600k FLOPs."""
    config = ExtractConfig(
        targets=("cpu", "jetson"),
        budget=Budget(max_flops=600_000),
        is_shared=True,
        family=3,
        supernet=run.folder,
        out=tmp_path_factory.mktemp("bundles") / "shared",
        samples=16,
        finalists=2,
        max_drop=100.0,
    )
    return extract(config, QUIET)


def test_targets_that_share_get_a_bundle_each_with_the_same_models(shared):
    """One subnet to know, and each device's own instructions; what was exported once is not exported again."""
    cpu, jetson = (read_bundle(report.bundle) for report in shared.reports)
    assert [report.bundle.name for report in shared.reports] == ["cpu", "jetson"]
    assert (cpu.manifest.target, jetson.manifest.target) == ("cpu", "jetson-orin")
    assert cpu.manifest.subnets == jetson.manifest.subnets
    assert cpu.manifest.search["shared_by"] == {name: {"max_flops": 600_000} for name in ("cpu", "jetson-orin")}


def test_a_family_lies_along_the_front_most_accurate_first(shared, digits):
    """A scheduler that must be quicker gives up accuracy for it, and never both."""
    manifest = shared.reports[0].manifest
    assert len(manifest.subnets) == 3
    assert manifest.default_subnet == manifest.subnets[0]
    flops = [entry.flops for entry in manifest.subnets]
    assert flops == sorted(flops, reverse=True)
    assert flops[0] <= 600_000
    members = manifest.search["family"]
    assert [member["arch"] for member in members] == [entry.arch for entry in manifest.subnets]
    # Each is what its own cost as a budget would have chosen: a cheaper one is no better beyond doubt.
    for better, cheaper in itertools.pairwise(members):
        doubt = manifest.search["standard_error"]
        is_surer = better["measured_loss"] < cheaper["measured_loss"]
        assert is_surer or better["measured_top1"] > cheaper["measured_top1"] - doubt
    for entry, member in zip(manifest.subnets, members, strict=True):
        assert entry.models[0].top1_validation == member["measured_top1"]
        assert ArchSpec.from_dict(digits, entry.arch)


def test_several_bundles_are_one_json_object(shared):
    """A program that reads stdout gets one answer, however many bundles it asked for."""
    plain = json.loads(json.dumps(shared.to_dict(), allow_nan=False))
    assert [bundle["target"] for bundle in plain["bundles"]] == ["cpu", "jetson-orin"]
    for bundle, report in zip(plain["bundles"], shared.reports, strict=True):
        assert [member["subnet"]["name"] for member in bundle["family"]] == [m.name for m in report.members]
        assert bundle["subnet"] == bundle["family"][0]["subnet"]
    text = shared.to_text()
    for report in shared.reports:
        assert str(report.bundle) in text
        for member in report.members:
            assert member.name in text
    assert "and 2 that cost less" in text


def test_asked_for_flops_the_largest_subnet_is_taken_and_none_is_measured(make, run, costs, digits):
    """Whoever trusts size alone need not wait; the files are checked all the same."""
    cache = run.folder / "measurements.jsonl"
    before = cache.read_bytes() if cache.exists() else b""
    report = make("cpu", Budget(max_flops=500_000, max_params=80_000), objective="flops")
    assert (cache.read_bytes() if cache.exists() else b"") == before
    everything = all_genes(digits)
    flops, params = costs["flops"](everything), costs["params"](everything)
    entry, search = report.manifest.default_subnet, report.manifest.search
    assert entry.flops == flops[(flops <= 500_000) & (params <= 80_000)].max()
    assert entry.params <= 80_000
    assert search["predictor"] == {"of": "flops", "source": "FLOPs"}
    assert search["chosen"]["predicted_flops"] == entry.flops
    assert "measured_top1" not in search["chosen"]
    assert entry.models[0].top1 == report.members[0].exports.torch_test
    assert report.landscape is None
    assert (report.bundle / "report" / "index.html").exists()
    assert not (report.bundle / "report" / "pareto.png").exists()


def test_every_bound_of_a_budget_is_kept(make, costs, digits):
    """Each of the four cuts something off here."""
    budget = Budget(max_flops=450_000, max_params=60_000, max_size_bytes=230_000, max_memory_bytes=235_000)
    report = make("cpu", budget)
    genes = encode(digits, [report.members[0].arch])
    assert len(budget.bounds()) == 4
    everything = all_genes(digits)
    for axis, bound in budget.bounds():
        assert costs[axis.key](genes)[0] <= bound < costs[axis.key](everything).max()


def test_a_latency_budget_is_kept_and_the_prediction_has_its_error(make, run, table, digits, tmp_path):
    """The device's table decides, and the bundle says how far to believe it."""
    place = find_table(run.folder, "cpu")
    table.save(place)
    try:
        report = make("cpu", Budget(max_latency_ms=0.05))
    finally:
        place.unlink()
    latency = report.manifest.default_subnet.latency["cpu"]
    assert latency.predicted_ms == pytest.approx(table.predict(digits, report.members[0].arch))
    assert latency.predicted_ms <= 0.05
    assert latency.error_ms == pytest.approx(0.02 * latency.predicted_ms)
    assert "predicted" in report.to_text()


def test_the_report_is_one_json_object_and_a_table(cpu):
    """For programs and for people, with the same numbers."""
    plain = json.loads(json.dumps(cpu.to_dict(), allow_nan=False))
    assert plain["subnet"]["flops"] == cpu.manifest.default_subnet.flops
    assert [row["precision"] for row in plain["precisions"]] == ["fp32", "fp16", "trt-int8", "cpu-int8"]
    text = cpu.to_text()
    for word in (
        "torch",
        "fp32",
        "cpu-int8",
        "validation",
        f"{100 * cpu.members[0].exports.torch_test:.2f} %",
        str(cpu.bundle),
    ):
        assert word in text


def test_precisions_left_out_stand_in_the_table_and_not_in_the_bundle(cpu):
    """The reader of the table must see what is missing and why."""
    (member,) = cpu.members
    entries = tuple(
        replace(entry, why_left_out="loses 9 points") if entry.precision == "cpu-int8" else entry
        for entry in member.exports.entries
    )
    text = replace(cpu, members=(replace(member, exports=replace(member.exports, entries=entries)),)).to_text()
    row = next(line for line in text.splitlines() if line.startswith("cpu-int8"))
    assert row.endswith("left out")


def test_the_landscape_holds_the_chosen_and_what_it_was_chosen_among(cpu):
    """A picture that does not show the choice explains nothing."""
    view = cpu.landscape
    assert view.chosen_cost == cpu.manifest.default_subnet.flops
    assert view.chosen_accuracy == cpu.members[0].exports.torch_validation
    assert view.chosen_cost in np.concatenate([view.finalist_costs, view.sample_costs])
    assert view.bound == 500_000
    assert len(view.sample_costs) == 16
    assert (np.diff(view.front_accuracies) >= 0).all()


def test_a_foretold_loss_is_told_as_the_top1_that_goes_with_it():
    """On a line through what was measured, which never promises less for a lower loss, nor more than everything."""
    measured = Measured(top1=np.array([0.9, 0.8, 0.7]), loss=np.array([0.3, 0.6, 0.9]))
    np.testing.assert_allclose(top1_at(np.array([0.3, 0.45, -9.0]), measured), [0.9, 0.85, 1.0])
    against = Measured(top1=measured.top1[::-1], loss=measured.loss)
    np.testing.assert_allclose(top1_at(np.array([0.1, 0.9]), against), 0.8)
