"""How the smallest subnet's gradient lies to the full model's, by hand: two plain networks, torch's own backward.

Stands beside what ``deps-train --diagnose-gradients`` wrote, and uses none of its code. At three checkpoints of
methods/deps-0, on a few batches of training images: the subnet's gradient from the full model's soft labels, as in
DεpS, and from the labels; against the full model's whole gradient, and against the slice of it that the subnet shares.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jobs import Job, JobFailedError, Place, write_result
from methods import STUDY as METHODS
from setting import Setting
from torch import Tensor
from torch.nn import functional as F

from deps.profile.flops import count
from deps.supernet import ArchSpec, Supernet
from deps.train.checkpoint import checkpoints, read_checkpoint

STUDY = "angles"
BATCHES = 8
CHECKPOINTS = (0.5, 0.625, 1.0)
"""Shares of the training: the end of the warm-up, the end of the ramp, and the end."""

Gradient = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class AnglesJob:
    """Norms and cosines at three moments of one run."""

    study: str
    name: str
    seed: int

    def planned(self, setting: Setting) -> int:
        """Return the multiply-adds of all passes."""
        recipe = setting.whole_recipe()
        space = recipe.search_space(10)
        sizes = [count(space, arch).flops for arch in (ArchSpec.largest(space), ArchSpec.smallest(space))]
        return 3 * (sizes[0] + 2 * sizes[1]) * BATCHES * len(CHECKPOINTS) * recipe.batch_size

    def run(self, place: Place) -> None:
        recipe = place.setting.whole_recipe(seed=self.seed)
        data = place.images(recipe)
        space, per_epoch = recipe.search_space(len(data.classes)), data.steps_per_epoch(recipe.batch_size)
        folder, rows = place.runs / METHODS / f"deps-{self.seed}", []
        by_step = {int(path.stem.removeprefix("step-")): path for path in checkpoints(folder)}
        for share in CHECKPOINTS:
            step = round(share * recipe.steps(per_epoch))
            if step not in by_step:
                raise JobFailedError(f"{folder} has no checkpoint of step {step}; run methods/deps-{self.seed} first")
            supernet = Supernet(space, read_checkpoint(by_step[step])[0].weights)
            stream = data.training_stream(
                range(step, step + BATCHES), recipe.batch_size, seed=recipe.seed + 1, resolution=lambda _: None
            )
            found = [look(supernet, x, labels, recipe.label_smoothing) for x, labels in stream]
            figures = {name: [one[name] for one in found] for name in found[0]}
            rows.append({"step": step, "epoch": share * recipe.epochs} | {n: spread(v) for n, v in figures.items()})
        write_result(place, self, {"study": self.study, "job": self.name, "seed": self.seed, "looks": rows})


def look(supernet: Supernet, x_NCHW: Tensor, labels_N: Tensor, smoothing: float) -> dict[str, float]:
    """Return norms and cosines on one batch."""
    space = supernet.space

    def by_labels(logits_NV: Tensor) -> Tensor:
        return F.cross_entropy(logits_NV, labels_N, label_smoothing=smoothing)

    logits_NV, full = gradient_of(supernet, ArchSpec.largest(space), x_NCHW, by_labels)
    soft_NV = logits_NV.softmax(1)
    result = {}
    for name, loss in (("distilled", lambda y: F.cross_entropy(y, soft_NV)), ("labelled", by_labels)):
        _, small = gradient_of(supernet, ArchSpec.smallest(space), x_NCHW, loss)
        shared = {key: full[key][tuple(slice(0, side) for side in mine.shape)] for key, mine in small.items()}
        product = sum(float((mine.double() * shared[key].double()).sum()) for key, mine in small.items())
        result[f"{name}_cosine"] = product / (norm(small) * norm(full))
        result[f"{name}_cosine_shared"] = product / (norm(small) * norm(shared))
        result[f"{name}_norm"] = norm(small) / norm(full)
    return result


def gradient_of(
    supernet: Supernet, arch: ArchSpec, x_NCHW: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Gradient]:
    """Return the logits of a subnet in training mode, and the gradient of its own copy of the weights."""
    module = supernet.subnet(arch).train()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    logits_NV = module(x_NCHW)
    torch.autograd.backward(loss(logits_NV))
    return logits_NV.detach(), {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def norm(gradient: Gradient) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in gradient.values()))


def spread(values: list[float]) -> dict[str, Any]:
    """Return mean and standard deviation over the batches."""
    return {"mean": round(statistics.mean(values), 4), "stdev": round(statistics.stdev(values), 4)}


def jobs(setting: Setting) -> list[Job]:
    """Return the one look."""
    seed = setting.seeds[0]
    return [AnglesJob(study=STUDY, name=f"by-hand-{seed}", seed=seed)]
