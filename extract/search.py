"""Find the subnets that score best under limits: every subnet of a small space, evolution and swaps in a large one.

Relies on objective and limits being functions of whole populations (one row of genes a subnet), so that a generation
costs a few array operations. What the objective is, a predictor or a measured table, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from deps.supernet.arch import ArchSpec
from deps.supernet.sampling import (
    Genes,
    all_genes,
    canonical,
    columns,
    crossover,
    distinct,
    encode,
    mutate,
    random_genes,
)
from deps.supernet.space import SearchSpace

Values: TypeAlias = NDArray[np.float64]
"""One number a subnet, shape (architectures,)."""

Function: TypeAlias = Callable[[Genes], Values]
"""Scores or costs of a population; deterministic."""

ENUMERABLE = 2_000_000
"""Spaces up to this many subnets are searched exactly."""

CHUNK = 1 << 16
"""Rows that are scored at once; bounds the memory of one-hot features."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A cost that may not exceed a number."""

    cost: Function
    maximum: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Evolution:
    """How long to search a space that cannot be listed."""

    population: int = 500
    generations: int = 40

    parents: float = 0.25
    """Share of the population that has children."""

    mutation: float = 0.1
    """Probability that a gene is drawn anew."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The best subnets found, best first; empty when none meets the limits."""

    genes: Genes
    """Shape (found, axes); every row meets every limit."""

    scores: Values
    """What the objective says of each, descending."""

    evaluated: int
    """How many subnets were scored."""

    is_exact: bool
    """Whether every subnet of the space was looked at, so that there is none better."""


def in_chunks(function: Function, genes: Genes) -> Values:
    """Return ``function(genes)``, computed piece by piece."""
    starts = range(0, max(len(genes), 1), CHUNK)
    return np.concatenate([np.asarray(function(genes[start : start + CHUNK]), np.float64) for start in starts])


def excess(limits: Sequence[Limit], genes: Genes) -> Values:
    """Return by how much each subnet exceeds its worst limit, as a fraction; at most 0 where all are met."""
    worst = np.full(len(genes), -1.0)
    for limit in limits:
        worst = np.maximum(worst, in_chunks(limit.cost, genes) / limit.maximum - 1)
    return worst


def search(
    space: SearchSpace,
    objective: Function,
    limits: Sequence[Limit] = (),
    *,
    rng: np.random.Generator,
    count: int = 8,
    start: Genes | None = None,
    evolution: Evolution | None = None,
    enumerable: int = ENUMERABLE,
) -> SearchResult:
    """Return the ``count`` best subnets that meet all limits.

    Args:
        space: the search space.
        objective: what to make large.
        limits: what must hold.
        rng: source of randomness; the same state gives the same result.
        count: how many subnets to return.
        start: subnets known to be good, such as those of another search; they join the first population.
        evolution: how long to search; by default 500 subnets for 40 generations.
        enumerable: spaces up to this many subnets are listed instead; 0 forces evolution.
    """
    if space.size() <= enumerable:
        return _search_all(space, objective, limits, count)
    return _Search(space, objective, limits, rng, evolution or Evolution()).run(count, start)


def _search_all(space: SearchSpace, objective: Function, limits: Sequence[Limit], count: int) -> SearchResult:
    genes = all_genes(space, limit=space.size())
    genes = genes[excess(limits, genes) <= 0]
    scores = in_chunks(objective, genes) if len(genes) else np.zeros(0)
    best = np.argsort(-scores, kind="stable")[:count]
    return SearchResult(genes[best], scores[best], evaluated=len(genes), is_exact=True)


class _Search:
    """One evolution; infeasible subnets rank below all feasible ones, by how far they are from feasible."""

    def __init__(
        self,
        space: SearchSpace,
        objective: Function,
        limits: Sequence[Limit],
        rng: np.random.Generator,
        settings: Evolution,
    ) -> None:
        self.space, self.objective, self.limits, self.rng, self.settings = space, objective, limits, rng, settings
        self.evaluated = 0

    def run(self, count: int, start: Genes | None) -> SearchResult:
        """Evolve, swap, and return the best."""
        population, fitness = self.first_population(start)
        for _ in range(self.settings.generations):
            children = self.children(population)
            population, fitness = self.survivors(population, fitness, children, self.settings.population)
        population, fitness = self.climb(population, fitness)
        is_feasible = np.isfinite(fitness) & (fitness > _INFEASIBLE)
        found, scores = population[is_feasible][:count], fitness[is_feasible][:count]
        return SearchResult(found, scores, self.evaluated, is_exact=False)

    def fitness(self, genes: Genes) -> Values:
        """Return the objective of feasible subnets; only these are scored."""
        over = excess(self.limits, genes)
        fitness = _INFEASIBLE - over
        is_feasible = over <= 0
        if is_feasible.any():
            fitness[is_feasible] = in_chunks(self.objective, genes[is_feasible])
            self.evaluated += int(is_feasible.sum())
        return fitness

    def first_population(self, start: Genes | None) -> tuple[Genes, Values]:
        """Return random subnets, what the caller knows, and the two ends of the space."""
        corners = encode(self.space, [ArchSpec.smallest(self.space), ArchSpec.largest(self.space)])
        known = corners if start is None or len(start) == 0 else np.concatenate([corners, start])
        # Many are drawn and the cheapest kept: under a tight budget, few random subnets are feasible.
        drawn = random_genes(self.space, 4 * self.settings.population, self.rng)
        order = np.argsort(np.maximum(excess(self.limits, drawn), 0), kind="stable")
        population = distinct(np.concatenate([known, drawn[order[: self.settings.population]]]))
        return _best(population, self.fitness(population), self.settings.population)

    def children(self, population: Genes) -> Genes:
        """Return as many new subnets as the population has, feasible ones where enough of them come up.

        Args:
            population: sorted, the best first.
        """
        parents = population[: max(2, int(self.settings.parents * len(population)))]
        proposals = 2 * self.settings.population
        half = proposals // 2
        mutants = mutate(
            self.space,
            parents[self.rng.integers(len(parents), size=proposals - half)],
            self.rng,
            probability=self.settings.mutation,
        )
        mothers, fathers = self.rng.integers(len(parents), size=(2, half))
        crossed = crossover(self.space, parents[mothers], parents[fathers], self.rng)
        children = np.concatenate([mutants, crossed])[self.rng.permutation(proposals)]
        order = np.argsort(np.maximum(excess(self.limits, children), 0), kind="stable")
        return children[order[: self.settings.population]]

    def survivors(self, population: Genes, fitness: Values, children: Genes, size: int) -> tuple[Genes, Values]:
        """Return the best ``size`` of parents and children, each subnet once, best first."""
        children = _new_rows(children, population)
        if len(children) == 0:
            return population, fitness
        return _best(np.concatenate([population, children]), np.concatenate([fitness, self.fitness(children)]), size)

    def climb(self, population: Genes, fitness: Values) -> tuple[Genes, Values]:
        """Change one gene, or two at once, of the best subnet, as long as that helps.

        Two at once matter at a limit: one gene must get cheaper for another to get dearer.
        """
        size = len(population)
        while True:
            best = fitness[0]
            for swaps in (single_swaps, double_swaps):
                population, fitness = self.survivors(population, fitness, swaps(self.space, population[0]), size)
                if fitness[0] > best:
                    break
            else:
                return population, fitness


_INFEASIBLE = -1e12
"""Below any objective; an excess is subtracted from it, so that the nearly feasible rank first."""


def _best(genes: Genes, fitness: Values, size: int) -> tuple[Genes, Values]:
    order = np.argsort(-fitness, kind="stable")[:size]
    return genes[order], fitness[order]


def _as_keys(genes: Genes) -> NDArray[np.void]:
    """Return each row as one opaque value, which sets can hold."""
    rows = np.ascontiguousarray(genes)
    return rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel()


def _new_rows(genes: Genes, known: Genes) -> Genes:
    """Return the distinct rows of ``genes`` that are not in ``known``."""
    keys = _as_keys(genes)
    _, first = np.unique(keys, return_index=True)
    first.sort()
    return genes[first][~np.isin(keys[first], _as_keys(known))]


def single_swaps(space: SearchSpace, row: Genes) -> Genes:
    """Return every canonical subnet that differs from ``row`` in the choice of one gene."""
    changes = _changes(space, row)
    rows = np.repeat(row[None], len(changes), axis=0)
    rows[np.arange(len(changes)), changes[:, 0]] = changes[:, 1]
    return canonical(space, rows)


def double_swaps(space: SearchSpace, row: Genes) -> Genes:
    """Return every canonical subnet that differs from ``row`` in the choices of two genes."""
    changes = _changes(space, row)
    first, second = np.triu_indices(len(changes), 1)
    differs = changes[first, 0] != changes[second, 0]
    first, second = changes[first[differs]], changes[second[differs]]
    rows = np.repeat(row[None], len(first), axis=0)
    at = np.arange(len(first))
    rows[at, first[:, 0]] = first[:, 1]
    rows[at, second[:, 0]] = second[:, 1]
    return canonical(space, rows)


def _changes(space: SearchSpace, row: Genes) -> NDArray[np.int64]:
    """Return all (axis, other gene) pairs, shape (changes, 2)."""
    pairs = [(axis, gene) for axis, size in enumerate(columns(space).choices) for gene in range(size)]
    every = np.array(pairs, np.int64).reshape(-1, 2)
    changes: NDArray[np.int64] = every[row[every[:, 0]] != every[:, 1]]
    return changes


def pareto(costs: Values, scores: Values) -> NDArray[np.intp]:
    """Return the indices of the points that no other point beats in both, cheapest first."""
    order = np.lexsort((-scores, costs))
    ordered = scores[order]
    is_better = np.r_[True, ordered[1:] > np.maximum.accumulate(ordered)[:-1]] if len(order) else np.zeros(0, bool)
    best: NDArray[np.intp] = order[is_better]
    return best


def front(
    space: SearchSpace,
    objective: Function,
    cost: Function,
    limits: Sequence[Limit] = (),
    *,
    rng: np.random.Generator,
    points: int = 12,
    enumerable: int = ENUMERABLE,
) -> tuple[Genes, Values, Values]:
    """Return the subnets that trade ``cost`` for ``objective`` best: genes, costs and scores, cheapest first.

    A space that cannot be listed is searched once for each of ``points`` budgets between the cheapest and the largest
    subnet, each search starting from what the one before it found.

    Args:
        space: the search space.
        objective: what to make large.
        cost: what to make small.
        limits: what must hold all along the front.
        rng: source of randomness.
        points: how many budgets to search for.
        enumerable: as in ``search``.
    """
    if space.size() <= enumerable:
        genes = all_genes(space, limit=space.size())
    else:
        ends = encode(space, [ArchSpec.smallest(space), ArchSpec.largest(space)])
        brief, found = Evolution(population=200, generations=20), ends
        # What was not measured costs infinitely much and is on no front.
        pool = np.concatenate([ends, random_genes(space, 1000, rng)])
        drawn = cost(pool[excess(limits, pool) <= 0])
        drawn = drawn[np.isfinite(drawn)]
        # The last search has no budget but the limits: its cost may lie beyond every random subnet's.
        budgets = [
            *(np.geomspace(drawn.min(), drawn.max(), points - 1) * (1 + 1e-9) if len(drawn) else ()),
            np.finfo(float).max,
        ]
        for maximum in budgets:
            result = search(
                space,
                objective,
                [*limits, Limit(cost, float(maximum))],
                rng=rng,
                start=found,
                evolution=brief,
                enumerable=enumerable,
            )
            found = np.concatenate([found, result.genes])
        genes = distinct(found)
    genes = genes[excess(limits, genes) <= 0]
    costs = in_chunks(cost, genes)
    genes, costs = genes[np.isfinite(costs)], costs[np.isfinite(costs)]
    scores = in_chunks(objective, genes)
    best = pareto(costs, scores)
    return genes[best], costs[best], scores[best]
