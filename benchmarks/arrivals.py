"""When requests come: Poisson, gamma of any burstiness, and a Markov-modulated process, all seeded.

Relies on NumPy. Every function returns moments in seconds, from 0 up to a duration.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Moments = NDArray[np.float64]


def gamma(rate: float, seconds: float, cv2: float, rng: np.random.Generator) -> Moments:
    """Return a renewal process whose gaps have the squared coefficient of variation ``cv2``; 1 is Poisson."""
    count = int(rate * seconds * 1.5 + 100 * (1 + cv2))
    moments = np.cumsum(rng.gamma(1 / cv2, cv2 / rate, count))
    return moments[moments < seconds]


def mmpp(calm: float, burst: float, seconds: float, calm_s: float, burst_s: float, rng: np.random.Generator) -> Moments:
    """Return Poisson arrivals whose rate changes between calm and burst; stays are exponential with the given means."""
    parts, start, in_burst = [], 0.0, False
    while start < seconds:
        stay = float(rng.exponential(burst_s if in_burst else calm_s))
        parts.append(start + gamma(burst if in_burst else calm, stay, 1.0, rng))
        start, in_burst = start + stay, not in_burst
    moments = np.concatenate(parts)
    return moments[moments < seconds]
