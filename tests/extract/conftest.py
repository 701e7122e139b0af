"""A real run to extract from: two epochs on the real digits, and what the modules make of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deps.extract.bundle import Contents, Costs, Member, write_bundle
from deps.extract.costs import cost_functions
from deps.extract.evaluate import Evaluator
from deps.extract.export import Exports, Subnet, export_family
from deps.extract.search import Function
from deps.ground.console import Story
from deps.profile.additive import slots
from deps.profile.flops import count
from deps.profile.latency import Check, Entry, LatencyTable, Session, TableError
from deps.serve.targets import get_target
from deps.supernet import ArchSpec, SearchSpace, get_space
from deps.train.loop import TrainConfig, train
from deps.train.recipes import get_recipe
from deps.train.run import Run, open_run

QUIET = Story(quiet=True)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; few images and epochs, so that its subnets differ visibly."""
    out = tmp_path_factory.mktemp("work") / "runs" / "digits"
    recipe = replace(
        get_recipe("digits"),
        epochs=3,
        batch_size=32,
        warmup_fraction=0.34,
        epsilon_ramp=0.5,
        train_images=320,
        random_subnets=1,
        calibration_images=200,
        evaluation_subnets=0,
    )
    train(TrainConfig(recipe=recipe, out=out), QUIET)
    return open_run(out)


@pytest.fixture(scope="session")
def digits() -> SearchSpace:
    """The space of the run; small enough to be enumerated."""
    return get_space("digits")


@pytest.fixture(scope="session")
def costs(digits: SearchSpace) -> dict[str, Function]:
    """What each axis of a budget costs, without a latency table."""
    return cost_functions(digits, None)


@pytest.fixture(scope="session")
def evaluator(run: Run) -> Evaluator:
    """Measures subnets of the run, remembering nothing on disk."""
    return Evaluator(run.supernet(), run.data(), calibration_images=200)


@pytest.fixture(scope="session")
def smallest(digits: SearchSpace) -> ArchSpec:
    """The smallest subnet."""
    return ArchSpec.smallest(digits)


@pytest.fixture(scope="session")
def exports(run: Run, digits: SearchSpace, smallest: ArchSpec, evaluator: Evaluator) -> Exports:
    """The smallest subnet in every precision."""
    subnet = Subnet(digits, smallest, evaluator.subnet(smallest), {"deps.space": "digits"})
    return export_family([subnet], run.data(), QUIET, max_drop=100.0, seed=0)[0]


@pytest.fixture(scope="session")
def shipped(
    run: Run,
    digits: SearchSpace,
    smallest: ArchSpec,
    evaluator: Evaluator,
    exports: Exports,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A whole bundle of the smallest subnet for the CPU; copy it before altering it."""
    member = Member(
        name="digits-smallest",
        arch=smallest,
        costs=Costs(**count(digits, smallest).to_dict()),
        exports=exports,
        latency={},
    )
    contents = Contents(
        target=get_target("cpu"),
        space=digits,
        members=(member,),
        data=run.data(),
        search={},
        provenance={"source": {"supernet_sha256": evaluator.supernet_sha256, "seed": 0}},
        extras={},
    )
    out = tmp_path_factory.mktemp("shipped") / "bundle"
    write_bundle(out, contents, QUIET)
    return out


@pytest.fixture(scope="session")
def table(digits: SearchSpace) -> LatencyTable:
    """A latency table of the space in which a piece takes a microsecond, and one more for each 20,000 multiply-adds."""
    pieces = {piece.key: piece for slot in slots(digits) for piece in slot.pieces}
    entries = {key: Entry(0.001 + piece.macs / 2e7, 0.0001, 100) for key, piece in pieces.items()}
    return LatencyTable(
        target="cpu",
        backend="onnxruntime",
        precision="fp32",
        threads=1,
        batch=1,
        space="digits",
        entries=entries,
        sessions=(
            Session(
                resolution=8,
                overhead_ms=0.01,
                scale=1.0,
                per_node_ms=0.0,
                clock="wall",
                clean_share=1.0,
                unsteadiness=0.0,
                rounds=100,
            ),
        ),
        error=TableError(0.02, 0.05, 0.0, 0.99, 0.1, 8),
        held_out=(Check(8, 400_000, 0.05, 0.05),),
        device={"cpu": "a test"},
        provenance={},
    )


@pytest.fixture
def rng() -> np.random.Generator:
    """The same randomness for every test."""
    return np.random.default_rng(0)
