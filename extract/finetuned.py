"""Train the chosen subnets further before they are exported, and keep what came of it only where it is better.

Relies on validation images for the comparison, so that test images go on only to report.
"""

from __future__ import annotations

from typing import NamedTuple

from deps.extract.evaluate import BATCH_SIZE, Evaluator
from deps.ground.console import Story
from deps.supernet import ArchSpec
from deps.supernet.evaluation import Accuracy, measure
from deps.supernet.network import Network
from deps.train.alone import train_alone
from deps.train.run import Run


class Finetuned(NamedTuple):
    """A subnet before and after it was trained alone."""

    network: Network
    """The better of the two."""

    epochs: int
    before: Accuracy
    after: Accuracy

    @property
    def is_kept(self) -> bool:
        """Whether training helped: more right answers, or as many with a lower loss, on validation images."""
        return is_better(self.after, self.before)

    def to_text(self) -> str:
        """Return what happened in one line."""
        verdict = "kept" if self.is_kept else "not better, so the subnet stays as it was"
        return (
            f"{self.epochs} epochs alone: top-1 {100 * self.before.top1:.2f} to {100 * self.after.top1:.2f} %, loss "
            f"{self.before.loss:.4f} to {self.after.loss:.4f} on validation images: {verdict}"
        )


def is_better(after: Accuracy, before: Accuracy) -> bool:
    """Whether one is more accurate, or as accurate with a lower loss."""
    return (after.top1, -after.loss) > (before.top1, -before.loss)


def finetuned(
    network: Network, arch: ArchSpec, run: Run, evaluator: Evaluator, story: Story, *, epochs: int, seed: int
) -> Finetuned:
    """Train a recalibrated subnet alone and measure it before and after.

    Raises:
        RunError: the run has no recipe.
    """
    data = evaluator.data
    trained = train_alone(network, run, data, arch.resolution, epochs=epochs, seed=seed, story=story)

    def accuracy(module: Network) -> Accuracy:
        batches = data.validation.batches(BATCH_SIZE, resolution=arch.resolution)
        device = next(module.parameters()).device
        return measure(module, ((x_NCHW.to(device), labels_N.to(device)) for x_NCHW, labels_N in batches))

    before, after = accuracy(network), accuracy(trained)
    return Finetuned(trained if is_better(after, before) else network, epochs, before, after)
