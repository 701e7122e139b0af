"""Ctrl-C and SIGTERM as a request that the loop obeys between two steps.

Relies on the main thread, which alone receives signals; elsewhere nothing is caught.
"""

from __future__ import annotations

import contextlib
import signal
from types import TracebackType
from typing import Any


class StopRequests:
    """Collects SIGINT and SIGTERM inside a ``with`` block instead of dying in the middle of a step."""

    def __init__(self, *, repeats: bool = False) -> None:
        """Prepare to collect.

        Args:
            repeats: whether a signal may come more than once, as when both a terminal and ``torchrun`` send it;
                otherwise a second one ends the process as usual.
        """
        self.is_requested = False
        self._repeats = repeats
        self._previous: dict[signal.Signals, Any] = {}

    def _request(self, number: int, _frame: Any) -> None:
        self.is_requested = True
        if not self._repeats:
            signal.signal(number, self._previous[signal.Signals(number)])

    def __enter__(self) -> StopRequests:
        with contextlib.suppress(ValueError):  # not in the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
