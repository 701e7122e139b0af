"""From a budget to a verified bundle: search, measure, choose, export, check, write.

Relies on every step being a module of its own; this page is their order, and what each is told of the others.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deps.extract.budget import Budget, check_feasible, fits_all, limits
from deps.extract.bundle import Contents, Costs, Member, check_place, write_bundle
from deps.extract.choose import Choice, choose, standard_error
from deps.extract.costs import cost_functions, usable_table
from deps.extract.evaluate import CACHE_NAME, Evaluator, Measured
from deps.extract.export import export_subnet
from deps.extract.predictor import Predictor
from deps.extract.report import ExtractReport, Landscape, plot_png, plot_text
from deps.extract.search import Function, SearchResult, Values, excess, front, search
from deps.extract.survey import Survey, survey
from deps.ground.console import Story
from deps.ground.errors import BudgetError
from deps.ground.provenance import provenance
from deps.ground.units import format_count, format_seconds
from deps.profile.flops import count
from deps.profile.latency import LatencyTable
from deps.serve.manifest import Latency
from deps.serve.targets import Target, get_target
from deps.supernet import ArchSpec, SearchSpace
from deps.supernet.sampling import Genes, decode, distinct
from deps.train.run import Run, newest_run, open_run

FINALISTS = 8
"""How many of the best that are predicted are measured before one is chosen."""

SAMPLES = 160
"""Most subnets that are measured for the predictor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig:
    """All that decides a bundle, besides the run."""

    target: str
    """Name of a target, or an alias."""

    budget: Budget = field(default_factory=Budget)
    """What the subnet may cost; no bound takes the most accurate."""

    supernet: Path | None = None
    """Run folder; None takes the newest finished one under ``runs/``."""

    data: Path | None = None
    """Folder of pictures to measure with; None takes the images that the run was trained on."""

    out: Path | None = None
    """Where the bundle appears; None means ``bundles/<target>-<budget>``."""

    targets_file: Path | None = None
    """The user's own targets."""

    max_drop: float = 1.0
    """Largest loss of validation accuracy of a precision, in points of a hundred."""

    samples: int = SAMPLES
    """Most subnets that are measured for the predictor."""

    finalists: int = FINALISTS
    """How many of the best that are predicted are measured before one is chosen."""

    seed: int = 0
    """Of everything random."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:
            raise BudgetError(f"max_drop is {self.max_drop}; expected points of a hundred, e.g. --max-drop 1.0")
        if self.samples < 8 or self.finalists < 1:
            raise BudgetError(
                f"{self.samples} samples and {self.finalists} finalists; expected at least 8 and 1: "
                "a predictor needs something to learn from, e.g. --samples 60"
            )
        if self.seed < 0:
            raise BudgetError(f"seed is {self.seed}; expected 0 or more")

    def place(self) -> Path:
        """Return where the bundle appears."""
        return self.out if self.out is not None else Path("bundles") / f"{self.target}-{self.budget.slug()}"


def extract(config: ExtractConfig, story: Story) -> ExtractReport:
    """Find the most accurate subnet within the budget and write its bundle.

    Raises:
        DepsError: of the kind that fits: budget, target, run, latency table, data, export, or files.
    """
    target, out = get_target(config.target, config.targets_file), config.place()
    check_place(out)
    run = open_run(config.supernet) if config.supernet is not None else newest_run()
    with run.cpu_threads():
        return _extract_from(run, target, out, config, story)


def _extract_from(run: Run, target: Target, out: Path, config: ExtractConfig, story: Story) -> ExtractReport:
    started = time.monotonic()
    supernet, data = run.supernet(), run.data(config.data)
    space, rng = supernet.space, np.random.default_rng(config.seed)
    table = usable_table(run.folder, target, space, story, is_needed=config.budget.max_latency_ms is not None)
    costs = cost_functions(space, table)
    story.say(f"supernet {run.folder} ({space.name}, {format_count(space.size())} subnets), target {target.name}")
    check_feasible(space, config.budget, costs, target=target.name, rng=rng)
    _say_what_the_budget_does(space, config.budget, costs, story, rng)

    calibration_images = run.recipe.calibration_images if run.recipe is not None else 2000
    evaluator = Evaluator(supernet, data, cache=run.folder / CACHE_NAME, calibration_images=calibration_images)
    axis = config.budget.main_axis
    surveyed = survey(evaluator, costs[axis.key], (costs["flops"], costs["params"]), rng, story, most=config.samples)
    predictor = surveyed.predictor
    story.say(predictor.quality.to_text())

    bounds = limits(config.budget, costs)
    found = search(space, lambda genes: -predictor(genes), bounds, rng=rng, count=config.finalists)
    # What the survey measured within the budget is known as well as the finalists are, and may win.
    genes = distinct(np.concatenate([found.genes, surveyed.genes[excess(bounds, surveyed.genes) <= 0]]))
    archs = decode(space, genes)
    measured = evaluator.measure(archs, story, "measuring the best")
    choice = choose(measured.top1, measured.loss, evaluator.num_images)
    field = _Field(genes, archs, measured, len(found.genes), evaluator.num_images, choice)
    arch, genes = archs[choice.chosen], genes[choice.chosen : choice.chosen + 1]
    story.say(_what_was_chosen(found, field))

    landscape = _landscape(space, config, costs, surveyed, field, rng)
    if story.is_terminal:
        story.say(plot_text(landscape))
    subnet, cost = evaluator.subnet(arch), count(space, arch)
    name = f"{space.name}-{format_count(cost.flops)}-{_short_hash(genes)}"
    source = {
        "run": run.name,
        "space": space.name,
        "supernet_sha256": evaluator.supernet_sha256,
        "supernet": supernet.provenance,
        "seed": config.seed,
    }
    metadata = {
        "deps.subnet": name,
        "deps.arch": json.dumps(arch.to_dict()),
        "deps.space": space.name,
        "deps.supernet_sha256": evaluator.supernet_sha256,
    }
    exports = export_subnet(
        space, arch, subnet, data, story, metadata=metadata, max_drop=config.max_drop, seed=config.seed
    )
    contents = Contents(
        target=target,
        space=space,
        members=(
            Member(
                name=name,
                arch=arch,
                costs=Costs(
                    flops=cost.flops,
                    params=cost.params,
                    activation_bytes=cost.activation_bytes,
                    weight_bytes=cost.weight_bytes,
                ),
                exports=exports,
                latency=_latency(space, arch, target, table),
            ),
        ),
        data=data,
        search=_search_facts(config, predictor, found, field),
        provenance={**provenance(), "source": source},
        extras={"report/pareto.png": plot_png(landscape, f"{name}, {target.name}")},
    )
    manifest = write_bundle(out, contents, story)
    seconds = time.monotonic() - started
    story.detail(f"done in {format_seconds(seconds)}; {evaluator.num_measured} subnets were measured anew")
    return ExtractReport(
        bundle=out,
        run=run.folder,
        manifest=manifest,
        budget=config.budget,
        arch=arch,
        exports=exports.entries,
        torch_validation=exports.torch_validation,
        torch_test=exports.torch_test,
        quality=predictor.quality,
        landscape=landscape,
        seconds=seconds,
    )


class _Field(NamedTuple):
    """All subnets that were measured within the budget, and which of them was chosen."""

    genes: Genes
    archs: list[ArchSpec]
    measured: Measured
    finalists: int
    """How many of the first are those that were predicted to be the best."""

    images: int
    choice: Choice


def _say_what_the_budget_does(
    space: SearchSpace, budget: Budget, costs: Mapping[str, Function], story: Story, rng: np.random.Generator
) -> None:
    if not budget.bounds():
        story.say("no budget was given: taking the most accurate subnet there is; bound it with e.g. --flops 300M")
    elif fits_all(space, limits(budget, costs), rng):
        story.say(f"every subnet of {space.name} fits {budget.describe()}: taking the most accurate")


def _short_hash(genes: Genes) -> str:
    return hashlib.sha256(genes.tobytes()).hexdigest()[:6]


def _latency(space: SearchSpace, arch: ArchSpec, target: Target, table: LatencyTable | None) -> dict[str, Latency]:
    if table is None:
        return {}
    predicted = table.predict(space, arch)
    return {target.name: Latency(predicted_ms=predicted, error_ms=table.error_ms(predicted))}


def _what_was_chosen(found: SearchResult, field: _Field) -> str:
    (top1, loss), choice = field.measured, field.choice
    how = "all" if found.is_exact else "evolution scored"
    origin = "one of the best predicted" if choice.chosen < field.finalists else "one the predictor was fitted on"
    return (
        f"{how} {found.evaluated:,} subnets within the budget{' were scored' if found.is_exact else ''}; the best "
        f"{field.finalists} were measured: {', '.join(f'{100 * share:.2f}' for share in top1[: field.finalists])} %\n"
        f"{len(choice.alike)} of {len(loss)} measured within the budget are within ± {100 * choice.standard_error:.2f} "
        f"points of the best, {100 * float(top1.max()):.2f} %; the lowest loss of these is taken: "
        f"{loss[choice.chosen]:.4f} with {100 * top1[choice.chosen]:.2f} %, {origin}"
    )


def _landscape(
    space: SearchSpace,
    config: ExtractConfig,
    costs: Mapping[str, Function],
    surveyed: Survey,
    field: _Field,
    rng: np.random.Generator,
) -> Landscape:
    axis = config.budget.main_axis
    cost, predictor = costs[axis.key], surveyed.predictor
    _, front_costs, front_scores = front(space, lambda genes: -predictor(genes), cost, rng=rng)
    measured_costs, top1 = np.asarray(cost(field.genes), np.float64), field.measured.top1
    chosen_top1 = float(top1[field.choice.chosen])
    return Landscape(
        axis=axis,
        bound={a.key: bound for a, bound in config.budget.bounds()}.get(axis.key),
        sample_costs=np.asarray(cost(surveyed.genes), np.float64),
        sample_accuracies=surveyed.measured.top1,
        front_costs=front_costs,
        front_accuracies=top1_at(-front_scores, surveyed.measured),
        finalist_costs=measured_costs[: field.finalists],
        finalist_accuracies=top1[: field.finalists],
        chosen_cost=float(measured_costs[field.choice.chosen]),
        chosen_accuracy=chosen_top1,
        noise=standard_error(chosen_top1, field.images),
    )


def top1_at(loss: Values, measured: Measured) -> Values:
    """Return the top-1 that goes with a loss, by the straight line through measured subnets, which never rises.

    Where the measured show no such trend, the line is level.
    """
    spread = measured.loss - measured.loss.mean()
    slope = float(spread @ measured.top1) / max(float(spread @ spread), 1e-12)
    line = measured.top1.mean() + min(slope, 0.0) * (loss - measured.loss.mean())
    return np.asarray(np.clip(line, 0.0, 1.0), np.float64)


def _search_facts(config: ExtractConfig, predictor: Predictor, found: SearchResult, field: _Field) -> dict[str, Any]:
    quality, predicted = predictor.quality, predictor(field.genes)
    (top1, loss), choice = field.measured, field.choice

    def facts(index: int) -> dict[str, Any]:
        return {
            "arch": field.archs[index].to_dict(),
            "predicted_loss": float(predicted[index]),
            "measured_loss": float(loss[index]),
            "measured_top1": float(top1[index]),
        }

    return {
        "budget": config.budget.to_dict(),
        "seed": config.seed,
        "max_drop": config.max_drop,
        "objective": "cross-entropy on validation images, predicted for all; of those measured within the budget, the "
        "lowest among those whose top-1 is within one standard error of the best",
        "is_exact": found.is_exact,
        "evaluated": found.evaluated,
        "predictor": {
            "of": "cross-entropy on validation images",
            "samples": quality.samples,
            "mean_error": quality.mean_error,
            "spread": quality.spread,
            "kendall_tau": quality.kendall_tau,
            "spearman": quality.spearman,
        },
        "finalists": [facts(index) for index in range(field.finalists)],
        "measured_within_budget": len(field.archs),
        "best_top1": float(top1.max()),
        "standard_error": choice.standard_error,
        "within_standard_error": len(choice.alike),
        "chosen": {**facts(choice.chosen), "is_finalist": choice.chosen < field.finalists},
    }
