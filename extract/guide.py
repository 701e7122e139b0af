"""What tells good subnets from bad ones before they are measured: a survey, a published predictor, or mere FLOPs.

Relies on ``survey.py`` and ``published_predictor.py``; the search asks all three in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deps.extract.predictor import Quality
from deps.extract.published_predictor import PublishedPredictor
from deps.extract.search import Function, Values
from deps.extract.survey import Survey
from deps.supernet.sampling import Genes

Quantity = Literal["loss", "top1", "flops"]

DESCRIPTION: dict[Quantity, str] = {
    "loss": "cross-entropy on validation images, predicted for all; of those measured within the budget, the lowest "
    "among those whose top-1 is within one standard error of the best",
    "top1": "top-1 by a published predictor; of those measured within the budget, where there were images to measure "
    "with, the lowest loss among those whose top-1 is within one standard error of the best",
    "flops": "FLOPs, as asked: the largest subnet within the budget, whatever its accuracy",
}


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Guide:
    """What the search asks of a subnet."""

    quantity: Quantity
    predict: Function
    """The quantity of each subnet of a population."""

    source: str
    """Where it comes from, in words."""

    surveyed: Survey | None = None
    """What was measured to learn it."""

    @property
    def sign(self) -> int:
        """-1 where the quantity is to be small, which a search is told as its negative."""
        return -1 if self.quantity == "loss" else 1

    def objective(self, genes: Genes) -> Values:
        """Return what the search makes large."""
        return self.sign * self.predict(genes)

    @property
    def quality(self) -> Quality | None:
        """How well it foretells subnets it did not see, where that was measured."""
        return self.surveyed.predictor.quality if self.surveyed is not None else None


def guide_from_survey(surveyed: Survey) -> Guide:
    """Return the guide that a survey's predictor is."""
    samples = surveyed.predictor.quality.samples
    return Guide(
        quantity="loss",
        predict=surveyed.predictor,
        source=f"a predictor fitted on {samples} measured subnets",
        surveyed=surveyed,
    )


def guide_from_predictor(predictor: PublishedPredictor, name: str) -> Guide:
    """Return the guide that a published predictor is."""
    return Guide(quantity="top1", predict=predictor, source=f"the published predictor {name}")


def guide_from_flops(flops: Function) -> Guide:
    """Return the guide to the largest subnet."""
    return Guide(quantity="flops", predict=lambda genes: flops(genes).astype(float), source="FLOPs")
