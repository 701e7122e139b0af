"""Two other searches, to stand beside ours: once-for-all's evolution with its published defaults, and pymoo's NSGA-II.

Both get the same objective and the same limits. Each returns its best score and how many subnets it scored.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from deps.extract.search import Function, Limit, excess
from deps.supernet import SearchSpace
from deps.supernet.sampling import Genes, canonical, columns

POPULATION, GENERATIONS, PARENTS, MUTANTS, MUTATION = 100, 500, 25, 50, 0.1
"""Defaults of once-for-all's ``EvolutionFinder``: parent ratio 0.25, mutation ratio 0.5, mutation probability 0.1."""


def once_for_all(
    space: SearchSpace, objective: Function, limits: Sequence[Limit], rng: np.random.Generator
) -> tuple[float, int]:
    """Search as once-for-all does, but with whole populations as arrays.

    Every generation keeps the best quarter and adds 50 mutants and 50 crosses of it; what exceeds a limit is drawn
    again until it does not. A mutated block draws kernel and expand together. Genes of left-out blocks are kept, as
    there, and come back when the depth grows.
    """
    choices = columns(space).choices
    blocks, axes = len(space.blocks), len(choices)

    def until_valid(count: int, draw: Any) -> Genes:
        kept = np.zeros((0, axes), np.uint8)
        while len(kept) < count:
            drawn = draw(2 * (count - len(kept)))
            kept = np.concatenate([kept, drawn[excess(limits, canonical(space, drawn)) <= 0]])
        return np.asarray(kept[:count], dtype=np.uint8)

    def fresh(count: int) -> Genes:
        return np.asarray(rng.random((count, axes)) * choices, dtype=np.uint8)

    def mutants(count: int) -> Genes:
        rows = parents[rng.integers(len(parents), size=count)]
        is_new = rng.random((count, axes)) < MUTATION
        is_new[:, blocks : 2 * blocks] = is_new[:, :blocks]
        return np.asarray(np.where(is_new, fresh(count), rows), dtype=np.uint8)

    def crosses(count: int) -> Genes:
        mothers, fathers = parents[rng.integers(len(parents), size=(2, count))]
        return np.asarray(np.where(rng.random((count, axes)) < 0.5, mothers, fathers), dtype=np.uint8)

    def scored(genes: Genes) -> np.ndarray[Any, Any]:
        return np.asarray(objective(canonical(space, genes)))

    population = until_valid(POPULATION, fresh)
    scores = scored(population)
    for _ in range(GENERATIONS):
        order = np.argsort(-scores, kind="stable")[:PARENTS]
        parents, best = population[order], scores[order]
        children = np.concatenate([until_valid(MUTANTS, mutants), until_valid(POPULATION - MUTANTS, crosses)])
        population, scores = np.concatenate([parents, children]), np.concatenate([best, scored(children)])
    return float(scores.max()), POPULATION * (GENERATIONS + 1)


def nsga2(
    space: SearchSpace, objective: Function, limits: Sequence[Limit], cost: Function, seed: int
) -> tuple[float, int]:
    """Search with pymoo's NSGA-II: score against cost, the limits as constraints, as many scored as once-for-all.

    Genes are whole numbers: uniform crossover, and each gene is drawn anew with probability one in the number of genes.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    choices = columns(space).choices

    class Budgeted(Problem):
        def __init__(self) -> None:
            super().__init__(n_var=len(choices), n_obj=2, n_ieq_constr=len(limits), xl=0, xu=choices - 1, vtype=int)

        def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            genes = canonical(space, x.astype(np.uint8))
            out["F"] = np.stack([-objective(genes), cost(genes) / limits[0].maximum], axis=1)
            out["G"] = np.stack([limit.cost(genes) / limit.maximum - 1 for limit in limits], axis=1)

    class Redraw(Mutation):
        def _do(self, problem: Any, x: Any, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:
            is_new = random_state.random(x.shape) < 1 / len(choices)
            return np.where(is_new, (random_state.random(x.shape) * choices).astype(int), x)

    # Its hints name the classes of the defaults, not their base.
    crossover: Any = UniformCrossover()
    mutation: Any = Redraw()
    algorithm = NSGA2(pop_size=POPULATION, sampling=IntegerRandomSampling(), crossover=crossover, mutation=mutation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Any = minimize(Budgeted(), algorithm, ("n_gen", GENERATIONS), seed=seed, verbose=False)
    return float(-found.F[:, 0].min()), int(found.algorithm.evaluator.n_eval)
