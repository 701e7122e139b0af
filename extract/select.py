"""Choose one subnet for an aim: search, measure the best that are foretold, and take the best that was measured.

Relies on ``search.py`` for the candidates and on ``choose.py`` for the rule of the choice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deps.extract.choose import Choice, choose
from deps.extract.evaluate import Evaluator, Measured
from deps.extract.goal import Aim
from deps.extract.guide import Guide
from deps.extract.search import Limit, SearchResult, Values, excess
from deps.extract.seek import Yardstick, seek
from deps.ground.console import Story
from deps.supernet import ArchSpec, SearchSpace
from deps.supernet.sampling import Genes, decode, distinct


class Field(NamedTuple):
    """The subnets within the budget among which one is chosen."""

    genes: Genes
    archs: list[ArchSpec]
    predicted: Values
    """What the guide foretells of each."""

    measured: Measured | None
    """None where there are no images to measure with."""

    finalists: int
    """How many of the first are those that were foretold to be the best."""

    images: int
    """How many images each was measured on."""


class Selection(NamedTuple):
    """What was chosen, and among what."""

    field: Field
    chosen: tuple[int, ...]
    """Rows of the field, most accurate first; several for a family."""

    choice: Choice | None
    """How the first was chosen; None where nothing was measured."""

    evaluated: int
    """How many subnets the guide was asked about."""

    is_exact: bool
    """Whether these were all there are."""

    yardstick: Yardstick | None = None
    """What the search was compared with, where costs are sums."""

    @property
    def archs(self) -> list[ArchSpec]:
        """The chosen subnets, most accurate first."""
        return [self.field.archs[index] for index in self.chosen]


def select_one(
    space: SearchSpace,
    aim: Aim,
    guide: Guide,
    evaluator: Evaluator | None,
    rng: np.random.Generator,
    story: Story,
    *,
    finalists: int,
) -> Selection:
    """Return the best subnet that meets the aim.

    Args:
        space: the search space.
        aim: what must hold; some subnet meets it.
        guide: foretells what is not measured.
        evaluator: measures the best that are foretold; None takes the first of them.
        rng: source of randomness.
        story: told of what was found.
        finalists: how many of the best that are foretold are measured.
    """
    limits = aim.limits()
    found, yardstick = seek(space, guide.objective, limits, rng=rng, count=finalists)
    if yardstick is not None:
        story.say(f"{yardstick.to_text(guide.quantity, sign=guide.sign)}; found: {guide.sign * found.scores[0]:.4f}")
    field = measured_field(space, guide, evaluator, found.genes, limits, story)
    if field.measured is None:
        story.say(_what_was_taken(found, guide))
        return Selection(field, (0,), None, found.evaluated, found.is_exact, yardstick)
    choice = choose(field.measured.top1, field.measured.loss, field.images)
    story.say(_what_was_chosen(found, field, choice))
    return Selection(field, (choice.chosen,), choice, found.evaluated, found.is_exact, yardstick)


def measured_field(
    space: SearchSpace,
    guide: Guide,
    evaluator: Evaluator | None,
    best: Genes,
    limits: list[Limit],
    story: Story,
) -> Field:
    """Return the best that are foretold and what the survey measured within the budget, all of them measured.

    What the survey measured is known as well as the finalists are, and may win.
    """
    genes = best
    if evaluator is not None and guide.surveyed is not None:
        within = guide.surveyed.genes[excess(limits, guide.surveyed.genes) <= 0]
        genes = distinct(np.concatenate([best, within]))
    archs = decode(space, genes)
    measured = evaluator.measure(archs, story, "measuring the best") if evaluator is not None else None
    images = evaluator.num_images if evaluator is not None else 0
    return Field(genes, archs, guide.predict(genes), measured, len(best), images)


def _what_was_taken(found: SearchResult, guide: Guide) -> str:
    return (
        f"{found.evaluated:,} subnets within the budget were scored by {guide.source}; the first is taken, and nothing "
        "was measured"
    )


def _what_was_chosen(found: SearchResult, field: Field, choice: Choice) -> str:
    assert field.measured is not None
    top1, loss = field.measured
    how = "all" if found.is_exact else "evolution scored"
    origin = "one of the best predicted" if choice.chosen < field.finalists else "one the predictor was fitted on"
    return (
        f"{how} {found.evaluated:,} subnets within the budget{' were scored' if found.is_exact else ''}; the best "
        f"{field.finalists} were measured: {', '.join(f'{100 * share:.2f}' for share in top1[: field.finalists])} %\n"
        f"{len(choice.alike)} of {len(loss)} measured within the budget are within ± {100 * choice.standard_error:.2f} "
        f"points of the best, {100 * float(top1.max()):.2f} %; the lowest loss of these is taken: "
        f"{loss[choice.chosen]:.4f} with {100 * top1[choice.chosen]:.2f} %, {origin}"
    )
