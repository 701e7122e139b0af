"""How the subnets' gradients lie to the full model's: norm and cosine by stage, through the start of shrinking.

Relies on ``train_step`` handing over the gradient of each share before they are summed. Before shrinking starts the
subnets' gradients are computed as well, and counted for nothing, so watching does not change the training.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deps.ground.files import write_text
from deps.supernet.slicing import leading_corner
from deps.supernet.supernet import Supernet
from deps.train.distributed import Ranks
from deps.train.figures import new_figure, save_figure
from deps.train.gradients import Corner
from deps.train.methods import Share, StepPlan

GRADIENTS = "gradients.jsonl"
ALL = "all"


def stage_of(name: str) -> str:
    """Return the part of the network that a tensor belongs to: stem, stage 1, …, head, classifier."""
    parts = name.split(".")
    return f"stage {int(parts[1]) + 1}" if parts[0] == "stages" else parts[0]


class Diagnosis:
    """Collects the gradients of one step's shares, and writes what they say to ``gradients.jsonl``."""

    def __init__(self, supernet: Supernet, folder: Path, ranks: Ranks, *, every: int, step: int) -> None:
        """Prepare to look at every so-manieth step; lines of steps from ``step`` on will be written again."""
        self.parameters, self.folder, self.ranks, self.every = supernet.parameters, folder, ranks, every
        self._found: list[dict[str, Tensor]] = []
        if ranks.is_first:
            kept = [record for record in read_gradients(folder) if record["step"] < step]
            write_text(folder / GRADIENTS, "".join(json.dumps(record) + "\n" for record in kept))

    def looks_at(self, step: int) -> bool:
        """Whether this step's gradients are wanted."""
        return step % self.every == 0

    def observe(self, index: int, corner: Corner, gradients: Sequence[Tensor | None], weight: float) -> None:
        """Take the gradient of one share on one group of images; ``train_step`` calls this.

        Args:
            index: of the share in the step.
            corner: whose leaves the gradients are of.
            gradients: one for each leaf.
            weight: share of the group in the batch.
        """
        while len(self._found) <= index:
            self._found.append({})
        mine = self._found[index]
        for name, gradient in zip(corner.leaves, gradients, strict=True):
            if gradient is not None:
                whole = mine.setdefault(name, torch.zeros_like(self.parameters[name]))
                leading_corner(whole, tuple(gradient.shape)).add_(gradient, alpha=weight)

    def write(self, plan: StepPlan, step: int) -> None:
        """Write a line for each share but the first of the step that was observed."""
        shares, found = plan.shares, self._found
        self._found = []
        for gradients in found:
            for tensor in gradients.values():
                self.ranks.sum(tensor)
        if not self.ranks.is_first:
            return
        lines = []
        for share, gradients in list(zip(shares, found, strict=True))[1:]:
            stages = compared(gradients, found[0])
            record = {"step": step, "epsilon": plan.epsilon, "role": share.role, "loss": share.loss}
            lines.append(json.dumps({**record, "arch": share.arch.to_dict(), "stages": stages}) + "\n")
        with (self.folder / GRADIENTS).open("a", encoding="utf-8") as file:
            file.writelines(lines)


def observed_plan(plan: StepPlan, shares: tuple[Share, ...]) -> StepPlan:
    """Return a plan of the full model alone with the sandwich's subnets added, which count for nothing."""
    return plan if len(plan.shares) > 1 else replace(plan, shares=(*plan.shares, *shares[1:]))


def compared(subnet: dict[str, Tensor], full: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Return for each stage, and for all together, how one gradient lies to another.

    Both are gradients of the supernet's tensors, 0 where a subnet has none.

    Returns:
        ``norm`` of the subnet's, ``full_norm``, and their ``cosine``; 0 where one of them is 0.
    """
    squares: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for name in subnet.keys() | full.keys():
        a, b = subnet.get(name), full.get(name)
        sums = (
            float(a.double().square().sum()) if a is not None else 0.0,
            float(b.double().square().sum()) if b is not None else 0.0,
            float((a.double() * b.double()).sum()) if a is not None and b is not None else 0.0,
        )
        for stage in (ALL, stage_of(name)):
            squares[stage] = [old + new for old, new in zip(squares[stage], sums, strict=True)]
    result = {}
    for stage, (mine, theirs, product) in sorted(squares.items(), key=_order):
        norms = math.sqrt(mine), math.sqrt(theirs)
        cosine = product / (norms[0] * norms[1]) if min(norms) > 0 else 0.0
        result[stage] = {"norm": norms[0], "full_norm": norms[1], "cosine": cosine}
    return result


def _order(item: tuple[str, Any]) -> tuple[int, str]:
    name = item[0]
    fixed = {ALL: 0, "stem": 1, "head": 3, "classifier": 4}
    return fixed.get(name, 2), name


def read_gradients(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run, oldest first; none where it was not diagnosed. A last line cut short is left out."""
    path = folder / GRADIENTS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def draw_gradients(folder: Path, *, shrink_start: int) -> list[Path]:
    """Draw cosine and relative norm over the steps, for the smallest and the random subnets, as PNG and SVG.

    Args:
        folder: of the run.
        shrink_start: the first step in which subnets count.

    Returns:
        The files; none when nothing was recorded.
    """
    records = read_gradients(folder)
    if not records:
        return []
    roles = sorted({record["role"] for record in records}, reverse=True)
    figure = new_figure(6 * len(roles), 7)
    axes = figure.subplots(2, len(roles), sharex=True, squeeze=False)
    for column, role in enumerate(roles):
        mine = [record for record in records if record["role"] == role]
        for stage in mine[0]["stages"]:
            by_step: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
            for record in mine:
                if found := record["stages"].get(stage):
                    ratio = found["norm"] / found["full_norm"] if found["full_norm"] else 0.0
                    by_step[record["step"]].append((found["cosine"], ratio))
            steps = sorted(by_step)
            style = {"color": "black", "linewidth": 2} if stage == ALL else {"linewidth": 1}
            for row in range(2):
                means = [sum(pair[row] for pair in by_step[step]) / len(by_step[step]) for step in steps]
                axes[row][column].plot(steps, means, label=stage, **style)
        for row, title in enumerate(("cosine to the full model's gradient", "norm, relative to the full model's")):
            axes[row][column].axvline(shrink_start, color="grey", linestyle=":", label="shrinking starts")
            axes[row][column].set_title(f"{role}: {title}", fontsize=10)
        axes[1][column].set_xlabel("step")
    axes[0][0].legend(fontsize=7)
    return save_figure(figure, folder, "gradients")
