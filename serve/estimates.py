"""How long a batch takes on each engine: what the bundle or the start measured, kept true by what serving shows.

Relies on nobody's clock but the caller's. An estimate errs on the late side: a level for each engine and batch size,
times the upper quantile of how far recent batches ran over their levels.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

UPPER_QUANTILE = 0.9
"""Share of batches that shall take no longer than ``seconds`` says."""

# The newest batch moves its level by this share of the surprise, and a slow one is believed at most so far: one hiccup
# of the machine must not close an engine to requests that it could meet. A fast one is no accident, and counts double;
# while a size was seen less often than so, more.
_GAIN = 0.15
_GAIN_DOWN = 0.3
_BELIEVED = 1.5
_SETTLED = 3

# After this long without a batch, a level no longer speaks of the machine as it is, and is derived from the others.
STALE_S = 5.0

# How many recent batches tell the spread, how many at least and how often; and what is assumed before that.
_RECENT = 128
_ENOUGH, _EVERY = 16, 8
_FIRST_SPREAD = 1.1

# A batch is large enough when larger ones would raise the throughput by less than this share.
_WORTH = 0.03

# After the nth batch of a size, n times so many times its images run before it is tried again: ever more seldom.
_TRIED_EVERY = 16


def filled_curve(measured: Mapping[int, float], max_batch: int) -> list[float]:
    """Return seconds for every batch of 0 to ``max_batch`` images, by straight lines through what was measured.

    Below the smallest measured size a batch is taken to cost as much as that size, above the largest in proportion.

    Args:
        measured: seconds by number of images; at least one entry.
        max_batch: largest batch that is asked for.
    """
    sizes = sorted(measured)
    curve = [0.0]
    for images in range(1, max_batch + 1):
        above = next((size for size in sizes if size >= images), None)
        below = next((size for size in reversed(sizes) if size <= images), None)
        if above is None:
            curve.append(measured[sizes[-1]] * images / sizes[-1])
        elif below is None or above == below:
            curve.append(measured[above])
        else:
            share = (images - below) / (above - below)
            curve.append(measured[below] + share * (measured[above] - measured[below]))
    return curve


def padded_curve(measured: Mapping[int, float]) -> list[float]:
    """Return seconds for every batch up to the largest measured one, on an engine that pads to one of the sizes."""
    sizes = sorted(measured)
    return [0.0] + [measured[next(size for size in sizes if size >= images)] for images in range(1, sizes[-1] + 1)]


class Estimates:
    """Predicted seconds by engine and batch size; one lock of the caller's guards it."""

    def __init__(self, curves: Sequence[Sequence[float]]) -> None:
        """Start from measured curves.

        Args:
            curves: one an engine: seconds for 0, 1, 2, … images, positive but for the first.
        """
        self._shape = [list(curve) for curve in curves]
        self._levels = [list(curve) for curve in curves]
        self._seen = [[0.0] * len(curve) for curve in curves]
        self._last = [-math.inf] * len(curves)
        self._images = [0] * len(curves)
        self._tries = [dict.fromkeys(doublings(len(curve) - 1), 0) for curve in curves]
        self._due = [{size: _TRIED_EVERY * size for size in tries} for tries in self._tries]
        self._trying = [0] * len(curves)
        self._pace = 1.0
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._observed = 0
        self._spread = _FIRST_SPREAD
        self.version = 0
        """Changes whenever predictions may have."""
        self.best = [best_batch(curve) for curve in curves]
        """By engine, the smallest batch that nearly reaches its highest throughput."""

    def observe(self, engine: int, images: int, seconds: float, now: float) -> None:
        """Take in how long a batch took, from its gathering to its answer."""
        self.version += 1
        level = self._level(engine, images, now)
        ratio = seconds / level
        self._recent.append(ratio)
        self._observed += 1
        if self._observed >= _ENOUGH and self._observed % _EVERY == 0:
            ordered = sorted(self._recent)
            self._spread = max(1.0, ordered[int(UPPER_QUANTILE * (len(ordered) - 1))])
        tries = self._tries[engine].get(images, _SETTLED)
        gain = _GAIN if ratio > 1 else max(_GAIN_DOWN, 1 / (1 + tries))
        self._levels[engine][images] = level * (1 + gain * (min(ratio, _BELIEVED) - 1))
        self._seen[engine][images] = self._last[engine] = now
        self._count(engine, images, now)
        pace = min(max(seconds / self._shape[engine][images], self._pace / _BELIEVED), self._pace * _BELIEVED)
        self._pace += _GAIN * (pace - self._pace)
        if self._observed % _EVERY == 0:
            sizes = range(len(self._levels[engine]))
            self.best[engine] = best_batch([self._level(engine, size, now) for size in sizes])

    def _count(self, engine: int, images: int, now: float) -> None:
        """Put off the next trial of this size; what a trial showed is kept beyond the time that levels hold."""
        tries, best = self._tries[engine], self.best[engine]
        self._images[engine] += images
        if images in tries:
            tries[images] += 1
            self._due[engine][images] = self._images[engine] + _TRIED_EVERY * images * tries[images]
        if images == self._trying[engine] and self._is_known(engine, best, now):
            share = self._levels[engine][images] / self._levels[engine][best]
            self._shape[engine][images] = share * self._shape[engine][best]
        self._trying[engine] = 0

    def size(self, engine: int, waiting: int, now: float, longest: float = math.inf) -> int:
        """Return how many images the next batch should hold if nobody is in a hurry: the best number, or one to try.

        What a disturbed start measured in an instant would otherwise be believed for ever of sizes that never run.

        Args:
            engine: which is to run it.
            waiting: images that wait; a trial leaves enough of them for another batch.
            now: this moment.
            longest: seconds beyond which nothing is tried.
        """
        best = self.best[engine]
        for size, due in self._due[engine].items():
            is_due = due <= self._images[engine] and size != best and size + best <= waiting
            if is_due and self._level(engine, size, now) < longest:
                self._trying[engine] = size
                return size
        return best

    def _is_known(self, engine: int, images: int, now: float) -> bool:
        seen = self._seen[engine][images]
        return bool(seen) and now - seen <= STALE_S

    def _level(self, engine: int, images: int, now: float) -> float:
        if self._is_known(engine, images, now):
            return self._levels[engine][images]
        return self._shape[engine][images] * self._pace

    def last_seen(self, engine: int) -> float:
        """Return when an engine last ran a batch; minus infinity when it never did."""
        return self._last[engine]

    def usual_seconds(self, engine: int, images: int, now: float) -> float:
        """Return what a batch usually takes; 0 to the curve's largest number of images."""
        return self._level(engine, images, now)

    def seconds(self, engine: int, images: int, now: float) -> float:
        """Return what a batch seldom exceeds; more images than the largest batch are counted as several batches."""
        largest = len(self._levels[engine]) - 1
        full, rest = divmod(images, largest)
        total = full * self._level(engine, largest, now) if full else 0.0
        if rest:
            total += self._level(engine, rest, now)
        return total * self._spread

    def snapshot(self, now: float) -> list[dict[int, float]]:
        """Return, by engine, the milliseconds that batches of 1, 2, 4, … and the largest are thought to take."""
        told = []
        for engine, levels in enumerate(self._levels):
            sizes = doublings(len(levels) - 1)
            told.append({size: 1e3 * self.seconds(engine, size, now) for size in sizes})
        return told


def doublings(largest: int) -> list[int]:
    """Return 1, 2, 4, … and the largest batch."""
    return sorted({1 << power for power in range(largest.bit_length())} | {largest})


def best_batch(curve: Sequence[float]) -> int:
    """Return the smallest batch whose throughput is within a few percent of the highest."""
    rates = [images / seconds for images, seconds in enumerate(curve) if images]
    enough = (1 - _WORTH) * max(rates)
    return next(images for images, rate in enumerate(rates, start=1) if rate >= enough)
