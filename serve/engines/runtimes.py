"""Load TensorRT, of either flavour, only when it is used, and keep its one logger.

Relies on ``tensorrt`` and ``tensorrt_rtx`` having nearly the same interface. The first logger of a process wins inside
the library, so each flavour gets exactly one here, and errors are collected from it around a call.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

from deps.ground.console import require
from deps.ground.errors import EngineError, MissingExtraError
from deps.serve.manifest import TensorRTFlavour

# A logger is shared by all threads of the process, so whoever collects its errors must be alone.
_CALLS = threading.RLock()


@functools.cache
def load_runtime(flavour: TensorRTFlavour) -> Any:
    """Return the module ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        MissingExtraError: it is not installed; the message holds the install line.
        EngineError: it is installed, but its libraries cannot be loaded.
    """
    try:
        return require(flavour, flavour.replace("_", "-"))
    except MissingExtraError as error:
        if flavour == "tensorrt":
            hint = "on a Jetson it comes with JetPack: make the environment with --system-site-packages"
            raise MissingExtraError(f"{error} ({hint})") from error
        raise
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise EngineError(
            f"{flavour} is installed but cannot be loaded: {reason}; expected its libraries beside it; install it again"
        ) from error


class Messages:
    """What TensorRT logged since the last ``clear``: warnings and errors, oldest first."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def clear(self) -> None:
        """Forget all."""
        self.errors.clear()
        self.warnings.clear()

    def summary(self, fallback: str) -> str:
        """Return the errors in one line, or ``fallback`` when nothing was logged."""
        lines = (" ".join(text.split()) for text in self.errors)
        return " | ".join(dict.fromkeys(lines)) or fallback


@functools.cache
def _logger(flavour: TensorRTFlavour) -> tuple[Any, Messages]:
    trt = load_runtime(flavour)
    messages = Messages()
    errors = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Collector(trt.ILogger):  # type: ignore[misc, name-defined]  # the base comes from a module loaded at run time
        """Keeps what a person should see, and drops the chatter."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            """Receive one message from the library."""
            if severity in errors:
                messages.errors.append(text)
            elif severity == trt.ILogger.Severity.WARNING:
                messages.warnings.append(text)

    return Collector(), messages


@contextlib.contextmanager
def logged_calls(flavour: TensorRTFlavour) -> Iterator[tuple[Any, Messages]]:
    """Yield the flavour's logger and the messages that arrive while the block runs; one block at a time."""
    with _CALLS:
        logger, messages = _logger(flavour)
        messages.clear()
        yield logger, messages
