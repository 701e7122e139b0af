"""Ranks: several processes, on one or many machines, that train one supernet together under ``torchrun``.

Relies on all of them carrying out the same plan on their part of each batch, so that one sum a step keeps their weights
equal. A rank that dies or fails is named by the others within seconds, and all end.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from deps.ground.errors import DepsError, RunError

BEAT_SECONDS = 0.5
SILENT_SECONDS = 10.0
"""A rank that was not heard of for so long is dead."""

HURRIED_SECONDS = 3.0
"""The same, once a connection broke, which is a sign already."""

COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=10)


class Verdict(NamedTuple):
    """Why the ranks cannot go on."""

    rank: int
    reason: str
    host: str
    was_told: bool
    """Whether that rank told the reason itself, and so has printed it where it ran."""


class Ranks:
    """The processes of one training, seen from one of them; alone there is one and nothing to exchange."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, watcher: Watcher | None = None) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._watcher = watcher

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and tells the story."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by the sum over all ranks, in place.

        Raises:
            RunError: a rank is gone.
        """
        if self.size > 1:
            self._exchange(lambda: dist.all_reduce(tensor))

    def sum_numbers(self, *numbers: float) -> list[float]:
        """Return the sums of some numbers over all ranks; everybody waits for everybody.

        Raises:
            RunError: a rank is gone.
        """
        if self.size == 1:
            return list(numbers)
        device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else None
        tensor = torch.tensor(numbers, dtype=torch.float64, device=device)
        self.sum(tensor)
        result: list[float] = tensor.tolist()
        return result

    def from_first(self, number: int) -> int:
        """Return the first rank's number on all ranks."""
        return round(self.sum_numbers(number if self.is_first else 0)[0])

    def part(self, count: int) -> slice:
        """Return this rank's contiguous part of ``count`` things, as even as possible."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def _exchange(self, run: Callable[[], object]) -> None:
        try:
            run()
        except RuntimeError as error:
            assert self._watcher is not None
            verdict = self._watcher.ask()
            if verdict is None:
                raise RunError(
                    f"rank {self.rank} lost the others ({str(error).splitlines()[0]}); look at their machines and "
                    "network, then start all of them again with --resume"
                ) from error
            self._end(verdict, error)

    def _end(self, verdict: Verdict, error: BaseException) -> NoReturn:
        """Say what happened, once for all ranks, and end."""
        if self._watcher is not None and self._watcher.speaks(verdict):
            raise RunError(described(verdict, self.size)) from error
        raise SystemExit(1) from error


def described(verdict: Verdict, size: int) -> str:
    """Return what happened to a rank and what to do, in one line."""
    where = f"rank {verdict.rank} of {size} on {verdict.host or 'an unknown machine'}"
    return (
        f"{where} {verdict.reason}, so all ranks stopped; the newest checkpoint is whole: mend that and start all of "
        "them again with --resume, in the same or another number"
    )


ALONE = Ranks()


class Watcher(threading.Thread):
    """Tells the others twice a second that this rank lives, and listens to them.

    When one is gone while the main thread waits inside the network library, only another thread can end the process.
    """

    def __init__(self, store: Store, rank: int, size: int, local_rank: int) -> None:
        super().__init__(name="ranks", daemon=True)
        self.store, self.rank, self.size, self.local_rank = store, rank, size, local_rank
        self.host = socket.gethostname()
        self.verdict: Verdict | None = None
        self._others = [other for other in range(size) if other != rank]
        self._silent = SILENT_SECONDS
        self._found, self._heard, self._done = threading.Event(), threading.Event(), threading.Event()

    def announce(self) -> None:
        """Make this rank known; to be called before the first exchange."""
        self.store.set(f"host/{self.rank}", self.host)
        self.store.set(f"beat/{self.rank}", "0")

    def ask(self) -> Verdict | None:
        """Return who is gone, after an exchange that failed; None when all others are alive."""
        self._heard.set()
        self._silent = min(self._silent, HURRIED_SECONDS)
        self._found.wait(self._silent + 4 * BEAT_SECONDS)
        return self.verdict

    def speaks(self, verdict: Verdict) -> bool:
        """Whether this rank is the one that tells: the first that lives, or the first of a machine not told yet."""
        if verdict.was_told:
            return verdict.host != self.host and self.local_rank == 0
        return self.rank == (1 if verdict.rank == 0 else 0)

    def tell_failure(self, reason: str) -> bool:
        """Tell the others why this rank ends; return whether it is the first that does."""
        mine = f"{self.rank}\t{self.host}\t{reason}"
        try:
            is_first = bytes(self.store.compare_set("failure", "", mine)).decode() == mine
            if self.rank == 0:
                # The store may live in this process: the others must have the time to read it.
                time.sleep(4 * BEAT_SECONDS)
            return is_first
        except (RuntimeError, OSError):
            return True

    def finish(self) -> None:
        """Stop watching, and tell the others that this silence is no death."""
        self._done.set()
        self._heard.set()
        with contextlib.suppress(RuntimeError, OSError):
            self.store.set(f"beat/{self.rank}", "done")
        self.join(timeout=5)

    def run(self) -> None:
        """Beat and listen until someone is gone."""
        last: dict[int, tuple[str, float]] = {}
        beats, lost_at = 0, 0.0
        while not self._done.wait(BEAT_SECONDS):
            beats += 1
            try:
                self.store.set(f"beat/{self.rank}", str(beats))
                if self.store.check(["failure"]):
                    rank, host, reason = bytes(self.store.get("failure")).decode().split("\t", 2)
                    if int(rank) != self.rank:
                        self._decide(Verdict(int(rank), f"stopped: {reason}", host, True))
                    return
                heard = self.store.multi_get([f"beat/{other}" for other in self._others])
                lost_at = 0.0
            except (RuntimeError, OSError):
                # The store lives with torchrun or with the first rank; without it there is nobody to ask.
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > self._silent / 2:
                    self._decide(Verdict(0, "and the store that joins the ranks are gone", "", False))
                    return
                continue
            now = time.monotonic()
            for other, value in zip(self._others, heard, strict=True):
                beat = bytes(value).decode()
                if other not in last or last[other][0] != beat:
                    last[other] = (beat, now)
                elif beat != "done" and now - last[other][1] > self._silent:
                    host = bytes(self.store.get(f"host/{other}")).decode()
                    self._decide(Verdict(other, "died or cannot be reached", host, False))
                    return

    def _decide(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self._found.set()
        if self._heard.wait(5.0) or self._done.is_set():
            return  # The main thread knows, and ends in its own way.
        if self.speaks(verdict):
            sys.stderr.write(f"deps-train: {described(verdict, self.size)}\n")
            sys.stderr.flush()
        os._exit(1)


def world_size() -> int:
    """Return how many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextlib.contextmanager
def open_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the other processes that ``torchrun`` started; alone there is nothing to join.

    An error in one rank ends all: the first prints its reason, the others follow in silence.

    Args:
        device: what this process computes on; GPUs exchange through nccl, processors through gloo.

    Raises:
        RunError: the others cannot be reached.
    """
    size = world_size()
    if size == 1:
        yield ALONE
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    try:
        store, rank, _ = next(rendezvous("env://", timeout=COLLECTIVE_TIMEOUT))
        # A connection of its own: the main thread may be waiting on the first one.
        watcher = Watcher(PrefixStore("deps", store.clone()), rank, size, local_rank)
        watcher.announce()
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("work", store),
            rank=rank,
            world_size=size,
            timeout=COLLECTIVE_TIMEOUT,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(
            f"the {size} processes cannot join one another ({str(error).splitlines()[0]}); start them with torchrun, "
            "with the same --rdzv-endpoint on every machine"
        ) from error
    ranks = Ranks(rank, size, local_rank, watcher)
    try:
        ranks.sum_numbers(1)
        watcher.start()
        yield ranks
    except KeyboardInterrupt:
        watcher.finish()
        if ranks.is_first:
            raise
        raise SystemExit(130) from None
    except SystemExit:
        raise
    except DepsError as error:
        if watcher.verdict is None and not watcher.tell_failure(str(error)):
            raise SystemExit(1) from error
        raise
    except BaseException as error:
        watcher.tell_failure(f"{type(error).__name__}: {error}")
        raise
    else:
        ranks.sum_numbers(1)  # Nobody leaves while another still needs it.
        watcher.finish()
        dist.destroy_process_group()
