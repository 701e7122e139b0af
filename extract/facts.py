"""Say of a search what a manifest keeps: the wish, the guide and its error, who was measured, and who was chosen.

Relies on nothing but what the search returned; every value is plain JSON data.
"""

from __future__ import annotations

from typing import Any

from deps.extract.config import ExtractConfig
from deps.extract.goal import Aim
from deps.extract.guide import DESCRIPTION, Guide
from deps.extract.select import Selection


def search_facts(config: ExtractConfig, aim: Aim, guide: Guide, selection: Selection) -> dict[str, Any]:
    """Return the facts of one search."""
    field, choice = selection.field, selection.choice

    def facts(index: int) -> dict[str, Any]:
        told = {
            "arch": field.archs[index].to_dict(),
            f"predicted_{guide.quantity}": float(field.predicted[index]),
            "is_finalist": index < field.finalists,
        }
        if field.measured is not None:
            told |= {
                "measured_loss": float(field.measured.loss[index]),
                "measured_top1": float(field.measured.top1[index]),
            }
        return told

    told: dict[str, Any] = {
        "budget": aim.goals[0].budget.to_dict(),
        "seed": config.seed,
        "max_drop": config.max_drop,
        "objective": DESCRIPTION[guide.quantity],
        "is_exact": selection.is_exact,
        "evaluated": selection.evaluated,
        "predictor": _predictor(guide),
        "finalists": [facts(index) for index in range(field.finalists)],
        "chosen": facts(selection.chosen[0]),
    }
    if (yardstick := selection.yardstick) is not None:
        told["additive_model"] = {
            f"bound_{guide.quantity}": guide.sign * yardstick.bound,
            "mean_error": yardstick.error,
            "is_exact": yardstick.is_exact,
        }
    if len(aim.goals) > 1:
        told["shared_by"] = {goal.target.name: goal.budget.to_dict() for goal in aim.goals}
    if config.family > 1:
        told["family"] = [facts(index) for index in selection.chosen]
    if field.measured is not None and choice is not None:
        told |= {
            "measured_within_budget": len(field.archs),
            "best_top1": float(field.measured.top1.max()),
            "standard_error": choice.standard_error,
            "within_standard_error": len(choice.alike),
        }
    return told


def _predictor(guide: Guide) -> dict[str, Any]:
    if (quality := guide.quality) is None:
        return {"of": guide.quantity, "source": guide.source}
    return {
        "of": "cross-entropy on validation images",
        "samples": quality.samples,
        "mean_error": quality.mean_error,
        "spread": quality.spread,
        "kendall_tau": quality.kendall_tau,
        "spearman": quality.spearman,
    }
