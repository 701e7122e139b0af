"""From logits to what a person reads: the best classes with their labels and shares.

Relies on the manifest's labels standing in the order of the logits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deps.serve.engines.base import FloatArray


@dataclass(frozen=True, slots=True)
class RankedClass:
    """One class of an answer."""

    index: int
    """Place among the logits."""

    label: str
    """Its name."""

    score: float
    """Softmax share, 0 to 1."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return asdict(self)


def top_classes(logits_V: FloatArray, labels: tuple[str, ...], count: int) -> list[RankedClass]:
    """Return the best classes of one image, best first; equal ones in the order of the labels."""
    exponents_V = np.exp(logits_V.astype(np.float64) - float(logits_V.max()))
    shares_V = exponents_V / exponents_V.sum()
    order = np.argsort(-logits_V, kind="stable")[:count]
    return [RankedClass(int(index), labels[index], float(shares_V[index])) for index in order]
