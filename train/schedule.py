"""Learning rate and ε as formulas of the step; nothing is listed, nothing is remembered.

Relies on nothing. Source of ε: DεpS, ECCV 2024, where the subnets' effective learning rate rises linearly during the
ramp; there ε is the ratio of that rate to the full model's.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias


class Bend(NamedTuple):
    """Where a cosine changes its pace."""

    step: int
    """Above 0 and below the number of all steps."""

    share: float
    """Of the cosine that is behind there, 0..1."""


def cosine_lr(step: float, *, steps: int, lr: float, warmup_steps: float = 0.0, bend: Bend | None = None) -> float:
    """Return the learning rate of one step: a cosine from ``lr`` to 0, under a linear rise at the start.

    Args:
        step: counted from 0.
        steps: number of all steps.
        lr: rate that the cosine starts from.
        warmup_steps: length of the linear rise.
        bend: where the cosine goes on at another pace; None keeps one pace.
    """
    rise = 1.0 if step >= warmup_steps else (step + 1) / (warmup_steps + 1)
    behind = min(step / steps, 1.0)
    if bend is not None and step < bend.step:
        behind = bend.share * step / bend.step
    elif bend is not None:
        behind = bend.share + (1 - bend.share) * min((step - bend.step) / (steps - bend.step), 1.0)
    return lr * rise * (1 + math.cos(math.pi * behind)) / 2


EpsilonShape: TypeAlias = Literal["linear", "cosine", "constant"]


def epsilon(
    step: int,
    *,
    start: int,
    ramp_steps: int,
    steps: int,
    lr: float,
    warmup_steps: float = 0.0,
    shape: EpsilonShape = "linear",
    bend: Bend | None = None,
) -> float:
    """Return the factor on the subnets' gradients: ε(t) = (t / t_ramp) · lr(t_end) / lr(t) in the ramp, 1 after it.

    t counts the steps since shrinking started, from 1; so the subnets' rate ε · lr rises linearly from near 0 to the
    rate that the full model has at the end of the ramp.

    Args:
        step: counted from 0.
        start: first step with subnets.
        ramp_steps: length of the ramp; 0 means ε = 1 at once.
        steps: number of all steps.
        lr: learning rate that the cosine starts from.
        warmup_steps: length of the linear rise of the learning rate.
        shape: linear is the paper's; cosine puts (1 - cos(π t / t_ramp)) / 2 in the place of t / t_ramp; constant is 1.
        bend: of the cosine.
    """
    done = step - start + 1
    if done <= 0:
        return 0.0
    if done >= ramp_steps or shape == "constant":
        return 1.0
    # A ramp that outlasts the training would end at a rate of 0 and never let the subnets learn.
    end = min(start + ramp_steps - 1, steps - 1)

    def rate(at: int) -> float:
        return cosine_lr(at, steps=steps, lr=lr, warmup_steps=warmup_steps, bend=bend)

    share = done / ramp_steps if shape == "linear" else (1 - math.cos(math.pi * done / ramp_steps)) / 2
    return share * rate(end) / rate(step)
