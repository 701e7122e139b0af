"""The exact optimum of an additive model under additive limits, by integer programming (HiGHS in scipy).

Relies on costs being told as one number for each choice (``Cost.sums``, ``Cost.peaks``). The optimum starts the search
of the real objective, and the bound says how much a sum could reach at most.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deps.extract.additive import AdditiveModel
from deps.extract.costs import Cost
from deps.extract.search import Limit
from deps.ground.console import require
from deps.ground.errors import LatencyTableError
from deps.profile.additive import LinearForm
from deps.supernet import SearchSpace
from deps.supernet.sampling import Genes, columns

SECONDS = 20.0
"""Longest time for one resolution; the bound is then what was proven by then."""


class Optimum(NamedTuple):
    """What the solver found."""

    genes: Genes
    """The best subnet, one row; by rounding it may exceed a limit by a millionth."""

    score: float
    """What the model says of it."""

    bound: float
    """No subnet within the limits has a higher score by the model; equal to ``score`` but for rounding."""


def additive_optimum(space: SearchSpace, model: AdditiveModel, limits: Sequence[Limit]) -> Optimum | None:
    """Return the subnet of the highest score by the model within the limits; None where no subnet meets them.

    Resolutions are solved one by one, the most promising first by its linear relaxation, as long as that could still
    be better than what was found.

    Args:
        space: a space without elastic widths.
        model: what to make large.
        limits: their costs must be of the kind ``Cost``, which tells its parts.
    """
    programs = [program for gene in range(len(space.resolutions)) if (program := _program(space, model, limits, gene))]
    if len(programs) > 1:
        relaxed = [program.solve(is_relaxed=True) for program in programs]
        hopeful = [(found.bound, i) for i, found in enumerate(relaxed) if found is not None]
        order = sorted(hopeful, reverse=True)
    else:
        order = [(np.inf, i) for i in range(len(programs))]
    best: Optimum | None = None
    bound = -np.inf
    for hope, i in order:
        if best is not None and hope <= best.score:
            break
        if (found := programs[i].solve(is_relaxed=False)) is not None:
            bound = max(bound, found.bound)
            if best is None or found.score > best.score:
                best = found
    return best._replace(bound=bound) if best is not None else None


class _Program:
    """The integer program of one resolution.

    Its variables are the depths of the stages (one of each is 1), the pairs of kernel and expand of the blocks (one of
    each block that is there is 1), and for each limit with a peak the cost of its largest piece.
    """

    def __init__(self, space: SearchSpace, model: AdditiveModel, gene: int) -> None:
        self.space, self.gene = space, gene
        self.sizes = [*map(len, space.depth_choices), *[block.size for block in model.blocks]]
        self.starts = np.cumsum([0, *self.sizes])
        self.count = int(self.starts[-1])
        self.constant = float(model.resolutions[gene])
        self.score = np.concatenate([*model.depths, *[block.ravel() for block in model.blocks]])
        self.rows: list[tuple[NDArray[np.float64], float, float]] = []
        """Coefficients, lower and upper bound; all of one length, peaks last."""

        self.peaks = 0
        self._add_structure()

    def _add_structure(self) -> None:
        for position in range(len(self.space.depth_choices)):
            row = np.zeros(self.count)
            row[self._part(position)] = 1
            self.rows.append((row, 1, 1))
        for block, (stage, index) in enumerate(self.space.blocks):
            row = np.zeros(self.count)
            row[self._part(len(self.space.depth_choices) + block)] = 1
            row[self._part(stage)] = [-float(depth > index) for depth in self.space.stages[stage].depths]
            self.rows.append((row, 0, 0))

    def _part(self, index: int) -> slice:
        return slice(int(self.starts[index]), int(self.starts[index + 1]))

    def _block_row(self, form: LinearForm) -> NDArray[np.float64]:
        depths = np.zeros(int(self.starts[len(self.space.depth_choices)]))
        return np.concatenate([depths, *[np.ravel(block) for block in form.blocks]]).astype(float)

    def add_limit(self, sums: LinearForm, peaks: LinearForm | None, maximum: float) -> None:
        """Bound a cost; rows are scaled to about 1, which is what the solver's tolerances are made for."""
        row, room = self._block_row(sums), maximum - sums.constant
        if peaks is None:
            self.rows.append((row / maximum, -np.inf, room / maximum))
            return
        self.peaks += 1
        peak = np.zeros(self.peaks)
        peak[-1] = 1.0
        self.rows.append((np.concatenate([row / maximum, peak]), -np.inf, room / maximum))
        self.rows.append((np.concatenate([np.zeros(self.count), peak]), peaks.constant / maximum, np.inf))
        costs = self._block_row(peaks) / maximum
        for block in range(len(self.space.blocks)):
            part = self._part(len(self.space.depth_choices) + block)
            row = np.zeros(self.count)
            row[part] = -costs[part]
            self.rows.append((np.concatenate([row, peak]), 0, np.inf))

    def solve(self, *, is_relaxed: bool) -> Optimum | None:
        """Return the best subnet and the bound; None where no subnet meets the limits."""
        optimize = require("scipy.optimize", "compile")
        width = self.count + self.peaks
        matrix = np.stack([np.pad(row, (0, width - len(row))) for row, _, _ in self.rows])
        low, high = (np.array([bounds[i] for bounds in self.rows], float) for i in (1, 2))
        is_binary = np.arange(width) < self.count
        with _silent_stdout():
            found: Any = optimize.milp(
                -np.pad(self.score, (0, self.peaks)),
                integrality=np.zeros(width) if is_relaxed else is_binary.astype(float),
                bounds=optimize.Bounds(0, np.where(is_binary, 1.0, np.inf)),
                constraints=optimize.LinearConstraint(matrix, low, high),
                options={"mip_rel_gap": 0.0, "time_limit": SECONDS, "disp": False},
            )
        if found.x is None:
            return None
        dual = found.fun if found.mip_dual_bound is None else found.mip_dual_bound
        return Optimum(self._genes(found.x), self.constant - float(found.fun), self.constant - float(dual))

    def _genes(self, x: NDArray[np.float64]) -> Genes:
        where = columns(self.space)
        genes = np.zeros((1, len(where.choices)), np.uint8)
        genes[0, where.resolution] = self.gene
        for position in range(len(self.space.depth_choices)):
            genes[0, where.depths.start + position] = x[self._part(position)].argmax()
        for block in range(len(self.space.blocks)):
            pair = x[self._part(len(self.space.depth_choices) + block)]
            if pair.max() > 0.5:
                expands = int(where.choices[where.expands.start + block])
                kernel, expand = divmod(int(pair.argmax()), expands)
                genes[0, where.kernels.start + block] = kernel
                genes[0, where.expands.start + block] = expand
        return genes


def _program(space: SearchSpace, model: AdditiveModel, limits: Sequence[Limit], gene: int) -> _Program | None:
    """Return the program of one resolution; None where a cost does not know it."""
    program, resolution = _Program(space, model, gene), space.resolutions[gene]
    for limit in limits:
        assert isinstance(limit.cost, Cost), "only costs that tell their parts can be bounded exactly"
        try:
            sums = limit.cost.sums(resolution)
        except LatencyTableError:
            return None
        if not np.isfinite(np.concatenate([np.ravel(block) for block in sums.blocks])).all():
            return None
        program.add_limit(sums, limit.cost.peaks(resolution) if limit.cost.peaks else None, limit.maximum)
    return program


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Send what a library prints from C into nowhere: stdout carries the answer, and with ``--json`` one object."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
