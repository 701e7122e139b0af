"""The solver's optimum is the true one, its bound is kept by every subnet, and stdout stays clean."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from deps.extract.additive import AdditiveModel
from deps.extract.costs import Cost, cost_functions
from deps.extract.milp import _silent_stdout, additive_optimum
from deps.extract.search import Limit, excess
from deps.profile.additive import LinearForm
from deps.supernet import SearchSpace
from deps.supernet.sampling import all_genes, columns


def random_model(space: SearchSpace, seed: int) -> AdditiveModel:
    """Numbers that favour no choice in particular."""
    rng = np.random.default_rng(seed)
    return AdditiveModel(
        space=space,
        resolutions=rng.normal(size=len(space.resolutions)),
        depths=tuple(rng.normal(size=len(choices)) for choices in space.depth_choices),
        blocks=tuple(
            rng.normal(size=(len(space.stages[s].kernels), len(space.stages[s].expands))) for s, _ in space.blocks
        ),
        error=0.0,
        spread=1.0,
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("axes", [(), ("flops",), ("latency", "params"), ("memory",)], ids="-".join)
def test_the_optimum_is_what_enumeration_finds(digits, table, seed, axes):
    """Two resolutions, so that they compete; every kind of cost, the peak of the memory included."""
    space = replace(digits, resolutions=(8, 12))
    sessions = (*table.sessions, replace(table.sessions[0], resolution=12))
    costs = cost_functions(space, replace(table, sessions=sessions, entries=_entries(space, table)))
    genes = all_genes(space)
    share = 0.05 + 0.2 * seed
    limits = [Limit(costs[axis], float(np.quantile(costs[axis](genes), share))) for axis in axes]
    model = random_model(space, seed)
    found = additive_optimum(space, model, limits)
    within = genes[excess(limits, genes) <= 0]
    assert found is not None
    best = float(model(within).max())
    assert found.bound == pytest.approx(best, abs=1e-5)
    assert found.score == pytest.approx(best, abs=1e-5)
    assert model(found.genes)[0] == pytest.approx(found.score)
    assert excess(limits, found.genes)[0] <= 1e-5


def planted(space: SearchSpace, constants: tuple[float, ...]) -> AdditiveModel:
    """One choice of the first block is worth 10, each resolution something of its own, and the rest nothing."""
    blocks = [np.zeros_like(block) for block in random_model(space, 0).blocks]
    blocks[0][-1, -1] = 10.0
    depths = tuple(np.zeros(len(choices)) for choices in space.depth_choices)
    return AdditiveModel(space, np.array(constants), depths, tuple(blocks), error=0.0, spread=1.0)


def price(space: SearchSpace, of_choice: float, constant: float = 0.0) -> LinearForm:
    """What that choice costs; all others are free."""
    blocks = [np.zeros_like(block) for block in random_model(space, 0).blocks]
    blocks[0][-1, -1] = of_choice
    return LinearForm(constant, tuple(blocks), 0.0)


@pytest.mark.parametrize(
    ("constants", "prices", "best"),
    [
        # Half of the dear choice would make the first resolution the most promising; whole, it is out of reach.
        ((0.0, 3.0), (1.9, 1000.0), 3.0),
        # The second resolution is looked at after the best was found, and must not lower the bound.
        ((3.0, 0.0), (1.9, 1.9), 3.0),
    ],
)
def test_a_resolution_that_only_seems_better_does_not_mislead(digits, constants, prices, best):
    """What a relaxation promises decides the order and nothing else."""
    space = replace(digits, resolutions=(8, 12))
    cost = Cost(lambda genes: np.zeros(len(genes)), lambda side: price(space, prices[space.resolutions.index(side)]))
    found = additive_optimum(space, planted(space, constants), [Limit(cost, 1.0)])
    assert found is not None
    assert found.score == pytest.approx(best)
    assert found.bound == pytest.approx(best)
    assert found.genes[0, columns(space).resolution] == constants.index(best)


def test_the_peak_of_what_every_net_has_counts_too(digits):
    """A stem that alone needs more than there is leaves nothing to choose."""
    free = price(digits, 0.0)
    cost = Cost(lambda genes: np.zeros(len(genes)), lambda _: free, lambda _: replace(free, constant=5.0))
    model = planted(digits, (0.0,))
    assert additive_optimum(digits, model, [Limit(cost, 4.0)]) is None
    found = additive_optimum(digits, model, [Limit(cost, 6.0)])
    assert found is not None
    assert found.score == pytest.approx(10.0)


def _entries(space, table):
    """The table's entries, and for pieces at other sizes the time of as many multiply-adds."""
    from deps.profile.additive import slots
    from deps.profile.latency import Entry

    pieces = {piece.key: piece for slot in slots(space) for piece in slot.pieces}
    return {key: table.entries.get(key, Entry(0.001 + piece.macs / 2e7, 0.0001, 100)) for key, piece in pieces.items()}


def test_where_nothing_fits_there_is_no_optimum(digits, costs):
    """The search then names the cheapest instead."""
    assert additive_optimum(digits, random_model(digits, 0), [Limit(costs["flops"], 10.0)]) is None


def test_what_a_library_prints_from_c_does_not_reach_stdout(capfd):
    """With --json, stdout holds one object and nothing else; the solver is known to print there."""
    with _silent_stdout():
        os.write(1, b"Presolving model")
    os.write(1, b"{}")
    assert capfd.readouterr().out == "{}"
