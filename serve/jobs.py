"""What waits, what runs next, and what came of it: the words that scheduler, runner and service share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

AIM = 0.5
"""Share of its time within which the choice of subnet wants a request answered; the rest is reserve."""


@dataclass(slots=True, eq=False)
class Job:
    """Images of one request, waiting."""

    images: npt.NDArray[Any]
    """Shape (N, C, H, W): float32 as the model takes them, or uint8 pixels."""

    size: int
    """N."""

    arrival: float
    """Moment of its arrival, by the clock that the scheduler is asked with."""

    settle: Callable[[list[Job]], None]
    """Told of jobs that have an outcome, all of one batch that name it at once, on whatever thread it comes about."""

    deadline: float = math.inf
    """Moment after which nobody wants the answer."""

    pin: int | None = None
    """The engine that must answer; None leaves the choice."""

    waiter: Any = None
    """Whatever ``settle`` needs to find who waits."""

    outcome: Reply | BaseException | None = None
    """What came of it."""

    goal: float = field(init=False)
    """Moment by which the choice of subnet wants it answered."""

    turn: tuple[float, int] = field(init=False, default=(0.0, 0))
    """Place in the queue: earliest deadline first, then first come."""

    def __post_init__(self) -> None:
        self.goal = self.arrival + AIM * (self.deadline - self.arrival)


class Reply(NamedTuple):
    """What came of a request."""

    logits: npt.NDArray[np.float32]
    """Shape (N, V)."""

    engine: int
    """Which engine answered."""

    batch: int
    """Images in the batch it was part of."""

    queued_s: float
    """From arrival to the start of its batch."""

    computed_s: float
    """From the start of its batch to the end."""


class Batch(NamedTuple):
    """What runs next, and on which engine."""

    engine: int
    jobs: list[Job]
    images: int
    until: float
    """When it should be done."""
