"""What comes back from an engine: logits, what computed them, and how long that took.

Relies on nothing but arrays; the runner makes it, the service hands it on, the fronts write it down.
"""

from __future__ import annotations

from dataclasses import dataclass

from deps.serve.engines.base import FloatArray


@dataclass(frozen=True, slots=True)
class AnsweredBy:
    """What computed an answer; told in its parameters."""

    subnet: str
    """Name of the subnet."""

    precision: str
    """Precision of its file."""

    engine: str
    """The backend, with its version."""

    def parameters(self) -> dict[str, str]:
        """Return them as the protocol's parameters."""
        return {"subnet": self.subnet, "precision": self.precision, "engine": self.engine}


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """The answer to one request."""

    logits: FloatArray
    """Shape (N, V)."""

    by: AnsweredBy
    """What computed it."""

    queue_s: float
    """Seconds that the request waited for the engine."""

    compute_s: float
    """Seconds that the engine took for the batch it was part of."""

    batch: int = 1
    """Images in that batch."""
