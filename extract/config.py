"""All that decides an extraction besides the run: targets, budgets, and how hard to look.

Relies on ``budget.py`` for what a subnet may cost; what is wrong with a wish is said here, before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from deps.extract.budget import Budget
from deps.ground.errors import BudgetError

FINALISTS = 8
"""How many of the best that are predicted are measured before one is chosen."""

SAMPLES = 160
"""Most subnets that are measured for the predictor."""

LARGEST_FAMILY = 64
"""More subnets than this lie closer together than any measurement can tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig:
    """All that decides the bundles, besides the run."""

    targets: tuple[str, ...]
    """Names of targets, or aliases; each gets a bundle."""

    budget: Budget = field(default_factory=Budget)
    """What a subnet may cost; no bound takes the most accurate."""

    latency_ms: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds for one image on single targets, in place of the budget's."""

    is_shared: bool = False
    """Whether one subnet must fit all targets, rather than one for each."""

    family: int = 1
    """How many subnets along the Pareto front a bundle holds."""

    supernet: Path | None = None
    """Run folder; None takes the newest finished one under ``runs/``."""

    data: Path | None = None
    """Folder of pictures to measure with; None takes the images that the run was trained on."""

    predictor: Path | None = None
    """A published accuracy predictor, in place of subnets measured for one."""

    objective: Literal["accuracy", "flops"] = "accuracy"
    """What to make large; ``flops`` needs no images and measures nothing."""

    device: str = "auto"
    """Where subnets are measured: ``cpu``, ``cuda``, or ``auto``."""

    out: Path | None = None
    """Where the bundle appears, or for several targets the folder of their bundles; None means ``bundles/...``."""

    targets_file: Path | None = None
    """The user's own targets."""

    finetune: int = 0
    """Epochs that each chosen subnet is trained alone before it is exported; 0 exports it as it is."""

    triton: Path | None = None
    """Where a Triton model repository is written too, or for several targets the folder of them."""

    max_drop: float = 1.0
    """Largest loss of validation accuracy of a precision, in points of a hundred."""

    samples: int = SAMPLES
    """Most subnets that are measured for the predictor."""

    finalists: int = FINALISTS
    """How many of the best that are predicted are measured before one is chosen."""

    seed: int = 0
    """Of everything random."""

    def __post_init__(self) -> None:
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise BudgetError(
                f"the targets are {', '.join(self.targets) or 'none'}; expected each once, e.g. --target cpu,rtx"
            )
        if not 0 <= self.max_drop <= 100:
            raise BudgetError(f"max_drop is {self.max_drop}; expected points of a hundred, e.g. --max-drop 1.0")
        if self.samples < 8 or self.finalists < 1:
            raise BudgetError(
                f"{self.samples} samples and {self.finalists} finalists; expected at least 8 and 1: "
                "a predictor needs something to learn from, e.g. --samples 60"
            )
        if self.seed < 0:
            raise BudgetError(f"seed is {self.seed}; expected 0 or more")
        if self.finetune < 0:
            raise BudgetError(f"finetune is {self.finetune}; expected 0 or more epochs, e.g. --finetune 5")
        if not 1 <= self.family <= LARGEST_FAMILY:
            raise BudgetError(f"family is {self.family}; expected 1 to {LARGEST_FAMILY} subnets, e.g. --family 5")
        if self.objective == "flops" and self.predictor is not None:
            raise BudgetError(
                f"--objective flops asks nothing of the predictor {self.predictor}; leave out one of the two"
            )
        for target, bound in self.latency_ms.items():
            if target not in self.targets:
                raise BudgetError(
                    f"a latency is given for {target}, which is not among the targets {', '.join(self.targets)}; "
                    "name the same in --target and --latency, e.g. --target cpu,rtx --latency cpu=5ms,rtx=1ms"
                )
            replace(self.budget, max_latency_ms=bound)

    def budget_of(self, target: str) -> Budget:
        """Return what a subnet may cost on one of the targets."""
        bound = self.latency_ms.get(target, self.budget.max_latency_ms)
        return replace(self.budget, max_latency_ms=bound)

    def place_of(self, target: str) -> Path:
        """Return where the bundle of one of the targets appears."""
        if self.out is not None:
            return self.out if len(self.targets) == 1 else self.out / target
        family = f"-family{self.family}" if self.family > 1 else ""
        return Path("bundles") / f"{target}-{self.budget_of(target).slug()}{family}"
