"""The numbers of the steps of an epoch, added up on the device, and the bar that shows them.

Relies on being asked seldom on a GPU: reading a number there waits for all work that was queued before it.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from deps.ground.console import Story
from deps.train.gradients import RECORDS
from deps.train.methods import StepPlan

GPU_STEPS = 20
"""Steps between two readings on a GPU."""

STOP = RECORDS.index("stop")


class Record:
    """Sums over the steps of the epoch that is under way, in float64."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.totals = torch.zeros(len(RECORDS), dtype=torch.float64, device=device)
        self.steps: Counter[str] = Counter()
        """Steps in which a role took part."""

        self.recent: dict[str, float] = {}
        """Losses of the last step that was looked at."""

        self._last: Tensor | None = None
        self._roles: tuple[str, ...] = ()
        self._values = [0.0] * len(RECORDS)
        self._flags: deque[tuple[Tensor, Any]] = deque()

    def add(self, plan: StepPlan, records: Tensor) -> None:
        """Take down one step, without waiting for it."""
        self.totals += records
        self._last, self._roles = records, tuple(dict.fromkeys(share.role for share in plan.shares))
        self.steps.update(self._roles)

    def is_due(self, step: int) -> bool:
        """Whether it is time to look: at every step on a processor, now and then on a GPU."""
        return self.device.type == "cpu" or step % GPU_STEPS == 0

    def fetch(self) -> None:
        """Read the sums from the device."""
        if self._last is None:
            return  # Nothing happened since the run was resumed.
        self._values = self.totals.tolist()
        last = self._last.tolist()
        self.recent = {role: last[RECORDS.index(f"loss/{role}")] for role in self._roles}

    @property
    def is_finite(self) -> bool:
        """Whether all sums are numbers, as they were when last read."""
        return all(math.isfinite(value) for value in self._values)

    @property
    def right(self) -> float:
        """Images that the first subnet of each step named rightly."""
        return self._values[RECORDS.index("right")]

    def losses(self) -> dict[str, float]:
        """Return the mean loss of each role that took part."""
        return {
            f"loss/{role}": self._values[RECORDS.index(f"loss/{role}")] / count for role, count in self.steps.items()
        }

    def stops(self) -> bool:
        """Return whether a rank asked to stop; the same answer at the same step on all of them.

        On a GPU it is the answer of the step before, which has arrived by now, so that nobody waits for it.
        """
        assert self._last is not None
        flag = self._last[STOP : STOP + 1]
        if self.device.type == "cpu":
            return bool(flag.item())
        host = torch.empty(1, pin_memory=True)
        host.copy_(flag, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._flags.append((host, event))
        if len(self._flags) < 2:
            return False
        host, event = self._flags.popleft()
        event.synchronize()
        return bool(host.item())

    def sums(self) -> dict[str, float]:
        """Return all that must be kept in the middle of an epoch, as last read."""
        stored = {name: value for name, value in zip(RECORDS, self._values, strict=True) if name != "stop"}
        return stored | {f"steps/{role}": float(count) for role, count in self.steps.items()}

    def restore(self, sums: dict[str, float]) -> None:
        """Go on from what ``sums`` returned."""
        self._values = [sums.get(name, 0.0) for name in RECORDS]
        self.totals.copy_(torch.tensor(self._values, dtype=torch.float64))
        for name, value in sums.items():
            if name.startswith("steps/"):
                self.steps[name.removeprefix("steps/")] = int(value)

    def clear(self) -> None:
        """Begin an epoch."""
        self.totals.zero_()
        self.steps.clear()
        self._values = [0.0] * len(RECORDS)


class TrainingBar:
    """The progress bar: steps, time left, images a second, ε, losses by subnet; on a terminal only."""

    def __init__(self, story: Story, steps: int, initial: int, batch_size: int) -> None:
        self._bar = story.bar("training", total=steps, initial=initial, unit="step")
        self._batch_size, self._initial = batch_size, initial

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def show(self, step: int, epsilon: float, losses: dict[str, float]) -> None:
        """Bring the bar up to a step."""
        self._bar.update(step - self._bar.n)
        if self._bar.disable:
            return
        rate = self._bar.format_dict["rate"] or (step - self._initial) / max(self._bar.format_dict["elapsed"], 1e-9)
        shown = " ".join(f"{role} {loss:.3f}" for role, loss in losses.items())
        self._bar.set_postfix_str(f"{rate * self._batch_size:.0f} images/s, ε {epsilon:.2g}, {shown}", refresh=False)
