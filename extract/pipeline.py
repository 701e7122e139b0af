"""From budgets to verified bundles: aim, survey, search, measure, choose, export, check, write.

Relies on every step being a module of its own; this page is their order, and what each is told of the others.
"""

from __future__ import annotations

import time

import numpy as np

from deps.extract.config import ExtractConfig
from deps.extract.costs import cost_functions
from deps.extract.crew import Crew, crew_from_environment
from deps.extract.evaluate import CACHE_NAME, Evaluator, measuring_device
from deps.extract.facts import search_facts
from deps.extract.family import select_family
from deps.extract.feasible import check_feasible, fits_all
from deps.extract.goal import Aim, find_aims, find_targets
from deps.extract.guide import Guide, guide_from_flops, guide_from_predictor, guide_from_survey
from deps.extract.landscape import find_landscape
from deps.extract.published_predictor import known_part, load_predictor
from deps.extract.report import Extraction, plot_text
from deps.extract.select import Selection, select_one
from deps.extract.ship import Shipment
from deps.extract.survey import survey
from deps.ground.console import Story
from deps.ground.errors import DataError
from deps.ground.units import format_count, format_seconds
from deps.serve.targets import Target
from deps.supernet import SearchSpace
from deps.train.data import ImageData
from deps.train.run import Run, newest_run, open_run


def extract(config: ExtractConfig, story: Story) -> Extraction:
    """Find the most accurate subnets within the budgets and write a bundle for each target.

    Returns:
        What was extracted; nothing in all but the first of several processes that torchrun started.

    Raises:
        DepsError: of the kind that fits: budget, target, run, latency table, data, export, or files.
    """
    targets = find_targets(config)
    run = open_run(config.supernet) if config.supernet is not None else newest_run()
    with run.cpu_threads(), crew_from_environment() as crew:
        return _extract_from(run, targets, config, crew, story if crew.is_first else Story(quiet=True))


def _extract_from(run: Run, targets: list[Target], config: ExtractConfig, crew: Crew, story: Story) -> Extraction:
    started = time.monotonic()
    supernet, data = run.supernet(), _find_data(run, config, story)
    space = supernet.space if config.predictor is None else known_part(supernet.space)
    rng = np.random.default_rng(config.seed)
    aims = find_aims(config, targets, run.folder, space, story)
    names = ", ".join(target.name for target in targets)
    story.say(f"supernet {run.folder} ({space.name}, {format_count(space.size())} subnets), target {names}")
    for aim in aims:
        check_feasible(space, aim.bounds(), rng=rng)
        _say_what_the_budget_does(space, aim, config, story, rng)

    evaluator = Evaluator(
        supernet,
        data or run.stand_in(),
        cache=run.folder / CACHE_NAME,
        calibration_images=run.calibration_images,
        device=measuring_device(config.device),
        crew=crew,
        has_images=data is not None,
    )
    guide = _find_guide(config, space, aims, evaluator, story, rng)
    judge = evaluator if config.objective == "accuracy" and data is not None else None
    selections = [_select(config, space, aim, guide, judge, story, rng) for aim in aims]
    if not crew.is_first:
        return Extraction((), time.monotonic() - started)
    shipment, reports = Shipment(run, evaluator, config, story), []
    for aim, selection in zip(aims, selections, strict=True):
        landscape = find_landscape(space, aim, guide, selection, rng)
        if landscape is not None and story.is_terminal:
            story.say(plot_text(landscape))
        facts = search_facts(config, aim, guide, selection)
        reports += [shipment.bundle(goal, selection.archs, facts, landscape) for goal in aim.goals]
    seconds = time.monotonic() - started
    whose = " by this process" if crew.size > 1 else ""
    story.detail(f"done in {format_seconds(seconds)}; {evaluator.num_measured} subnets were measured anew{whose}")
    return Extraction(tuple(reports), seconds)


def _find_data(run: Run, config: ExtractConfig, story: Story) -> ImageData | None:
    """Return the images; None where there are none and none are asked for."""
    if config.data is not None or run.recipe is not None:
        return run.data(config.data)
    if config.predictor is None and config.objective == "accuracy":
        raise DataError(
            f"{run.folder} was imported and has no images of its own, and accuracy is measured, not guessed; give a "
            "folder with train/ and val/ with --data FOLDER, a published predictor with --predictor FILE, or ask for "
            "the largest subnet with --objective flops"
        )
    if config.finetune:
        raise DataError("--finetune trains on images, and there are none; give them with --data FOLDER")
    story.warn(
        "there are no images: nothing is measured, BatchNorm keeps the checkpoint's statistics, which fit the largest "
        "subnet alone, and int8 is left out; a smaller subnet may be far less accurate than it could be: give --data "
        "FOLDER if you can"
    )
    return None


def _find_guide(
    config: ExtractConfig,
    space: SearchSpace,
    aims: tuple[Aim, ...],
    evaluator: Evaluator,
    story: Story,
    rng: np.random.Generator,
) -> Guide:
    costs = cost_functions(space, None)
    if config.objective == "flops":
        return guide_from_flops(costs["flops"])
    if config.predictor is not None:
        return guide_from_predictor(load_predictor(config.predictor, space), config.predictor.name)
    # One survey serves every aim, along the axis that they share.
    axis_cost = aims[0].cost if len(aims) == 1 else costs["flops"]
    totals = (costs["flops"], costs["params"])
    surveyed = survey(evaluator, axis_cost, totals, rng, story, most=config.samples)
    story.say(surveyed.predictor.quality.to_text())
    return guide_from_survey(surveyed)


def _select(
    config: ExtractConfig,
    space: SearchSpace,
    aim: Aim,
    guide: Guide,
    evaluator: Evaluator | None,
    story: Story,
    rng: np.random.Generator,
) -> Selection:
    if config.family == 1:
        return select_one(space, aim, guide, evaluator, rng, story, finalists=config.finalists)
    return select_family(space, aim, guide, evaluator, rng, story, size=config.family, finalists=config.finalists)


def _say_what_the_budget_does(
    space: SearchSpace, aim: Aim, config: ExtractConfig, story: Story, rng: np.random.Generator
) -> None:
    taken = "most accurate" if config.objective == "accuracy" else "largest"
    where = f" for {aim.names()}" if len(config.targets) > 1 else ""
    if not aim.bounds():
        story.say(f"no budget was given{where}: taking the {taken} subnet there is; bound it with e.g. --flops 300M")
    elif fits_all(space, aim.limits(), rng):
        story.say(f"every subnet of {space.name} fits {aim.describe()}{where}: taking the {taken}")
