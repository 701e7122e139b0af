"""A model that may be served: its folder, what is loaded of it, and the account of what was asked.

Relies on one event loop. A request holds a lease on the service that it found, and a service that was replaced is
closed when the last lease is given back: so a swap loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from deps.serve.computed import Computed
from deps.serve.refusals import ClientGoneError, RefusedError
from deps.serve.service import Service
from deps.serve.signature import Signature, signatures
from deps.serve.statistics import ModelStatistics

log = logging.getLogger("deps.serve")


class Stamp(NamedTuple):
    """What changes when a file is replaced or written."""

    inode: int
    mtime_ns: int
    size_bytes: int


def stamp_of(path: Path) -> Stamp | None:
    """Return the stamp of a file, or None when it is not there."""
    try:
        told = path.stat()
    except OSError:
        return None
    return Stamp(told.st_ino, told.st_mtime_ns, told.st_size)


@dataclass(slots=True, eq=False)
class Loaded:
    """A service that requests are sent to, and how many of them are under way."""

    service: Service
    stamp: Stamp | None
    """Of the manifest it was opened from."""

    signatures: tuple[Signature, Signature] = field(init=False)
    """With normalised numbers, and with pixels."""

    leases: int = 0
    is_retired: bool = False
    unused: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.signatures = signatures(self.service.manifest)

    def hold(self) -> Loaded:
        """Begin a lease: the service stays open until it is given back with ``release``."""
        self.leases += 1
        return self

    def release(self) -> None:
        """Give a lease back."""
        self.leases -= 1
        if self.is_retired and not self.leases:
            self.unused.set()

    def __enter__(self) -> Loaded:
        return self.hold()

    def __exit__(self, *_: object) -> None:
        self.release()

    async def retire(self) -> None:
        """Wait until nobody uses the service, then close it, which answers what it accepted."""
        self.is_retired = True
        if self.leases:
            await self.unused.wait()
        await asyncio.to_thread(self.service.close)


BatchCounts = dict[str, dict[int, tuple[int, float]]]
"""By subnet and by images in a batch: how many such batches ran, and their seconds."""


@dataclass(slots=True, eq=False)
class Model:
    """One bundle that may be served, loaded or not."""

    name: str
    folder: Path
    loaded: Loaded | None = None
    reason: str = "not loaded"
    """Why it is not loaded, or why the newest bundle in its folder is not."""

    swaps: int = 0
    """How often a loaded bundle was replaced."""

    failures: int = 0
    """How often a bundle could not be loaded."""

    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    leaving: list[Loaded] = field(default_factory=list)
    """Replaced or unloaded, and not closed yet."""

    past: BatchCounts = field(default_factory=dict)
    """What services ran that are closed by now."""

    refused_tree: frozenset[tuple[str, Stamp | None]] = frozenset()
    """Stamps of all files of the bundle that was last refused; it is not tried again until one changes."""

    def batches(self) -> BatchCounts:
        """Return what ran since the server's start."""
        total = {subnet: dict(counts) for subnet, counts in self.past.items()}
        for loaded in (*self.leaving, *([] if self.loaded is None else [self.loaded])):
            _count(total, loaded.service)
        return total

    async def retire(self, loaded: Loaded) -> None:
        """Close a service that is no longer this model's, once nobody uses it; its counts are kept."""
        self.leaving.append(loaded)
        await loaded.retire()
        self.leaving.remove(loaded)
        _count(self.past, loaded.service)


def _count(total: BatchCounts, service: Service) -> None:
    for told in service.stats()["subnets"]:
        counts = total.setdefault(told["subnet"], {})
        for images, (ran, seconds) in told["batches"].items():
            before = counts.get(images, (0, 0.0))
            counts[images] = (before[0] + ran, before[1] + seconds)


@dataclass(slots=True, eq=False)
class Served:
    """One name of the protocol: a model, in one of its two signatures."""

    name: str
    model: Model
    takes_raw: bool
    statistics: ModelStatistics = field(default_factory=ModelStatistics)

    def lease(self) -> Loaded:
        """Return what is loaded, to be entered before the event loop does anything else.

        Raises:
            RefusedError: nothing is loaded; 503.
        """
        if self.model.loaded is None:
            raise RefusedError(
                f"model {self.name!r} is not loaded ({self.model.reason}); expected a loaded one; "
                f"load it with POST /v2/repository/models/{self.model.name}/load",
                status=503,
            )
        return self.model.loaded

    def asking(self, arrived: float) -> Asking:
        """Return the account of one request, to be entered when it arrives."""
        return Asking(self.name, self.statistics, arrived)


@dataclass(slots=True, eq=False)
class Asking:
    """One request, from its arrival to its answer or whatever became of it instead."""

    name: str
    """Of the model that was asked."""

    statistics: ModelStatistics
    arrived: float
    """By ``time.monotonic``."""

    def __enter__(self) -> Asking:
        return self

    def answered(self, images: int, computed: Computed) -> None:
        """Count it as answered."""
        seconds = time.monotonic() - self.arrived
        self.statistics.answered(
            images=images,
            seconds=seconds,
            queue_s=computed.queue_s,
            compute_s=computed.compute_s,
            subnet=computed.by.subnet,
            precision=computed.by.precision,
        )
        if log.isEnabledFor(logging.DEBUG):
            facts = {"images": images, "batch": computed.batch, "subnet": computed.by.subnet}
            self._tell(logging.DEBUG, "answered", seconds, queue_ms=round(1e3 * computed.queue_s, 3), **facts)

    def _tell(self, level: int, outcome: str, seconds: float, **facts: object) -> None:
        extra = {"model": self.name, "outcome": outcome, "ms": round(1e3 * seconds, 3), **facts}
        log.log(level, "%s by %s in %.3f ms", outcome, self.name, 1e3 * seconds, extra=extra)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is not None:
            self.ended(error)

    def ended(self, error: BaseException) -> None:
        """Count it by what ended it instead of an answer."""
        seconds = time.monotonic() - self.arrived
        if isinstance(error, RefusedError):
            self.statistics.refused(error.status, seconds)
            if log.isEnabledFor(logging.DEBUG):
                self._tell(logging.DEBUG, "refused", seconds, status=error.status, error=str(error))
        elif isinstance(error, (asyncio.CancelledError, ClientGoneError)):
            self.statistics.hung_up()
        else:
            self.statistics.broke(seconds)
            self._tell(logging.ERROR, "failed", seconds, error=f"{type(error).__name__}: {error}")
