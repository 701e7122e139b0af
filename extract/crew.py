"""Several processes that measure together, as torchrun starts them: each does a share, and all learn every result.

Relies on torch.distributed with gloo, and on every process making the same decisions from the same results; alone, a
process is a crew of one and needs none of it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from deps.ground.errors import RunError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Crew:
    """One of several processes that do the same work."""

    rank: int = 0
    """Which of them this one is; the first writes what is to be written."""

    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return the part of the work that is this process's; the parts of all are the whole."""
        return items[self.rank :: self.size]

    def gather(self, part: T) -> list[T]:
        """Return what every process gave, by rank; all wait for the slowest.

        Raises:
            RunError: another process stopped.
        """
        if self.size == 1:
            return [part]
        from torch import distributed

        parts: list[T | None] = [None] * self.size
        try:
            distributed.all_gather_object(parts, part)
        except RuntimeError as error:
            raise RunError(
                f"process {self.rank} of {self.size} waited for another one that stopped; what that one said last is "
                "the reason"
            ) from error
        return [part for part in parts if part is not None]

    def agree(self, value: T) -> T:
        """Return what the first process gave, to all of them."""
        return self.gather(value)[0]


@contextlib.contextmanager
def crew_from_environment() -> Iterator[Crew]:
    """Join the processes that torchrun started, for the time of the block; alone without torchrun.

    Raises:
        RunError: torchrun's variables are there, and the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Crew()
        return
    from torch import distributed

    try:
        distributed.init_process_group("gloo")
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"the processes of WORLD_SIZE {os.environ['WORLD_SIZE']} cannot meet ({error}); start them with torchrun, "
            "e.g. torchrun --nproc-per-node 2 -m deps.extract.cli --flops 300M --target cpu"
        ) from error
    try:
        yield Crew(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
