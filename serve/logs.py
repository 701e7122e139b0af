"""The server's log on stderr, as text for a person or as one JSON object a line for a machine.

Relies on the standard library's logging; every fact that a message names stands in its own key as well.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

from deps.ground.console import Story

LogFormat = Literal["text", "json"]
LEVELS = ("debug", "info", "warning", "error")

# What every record has; whatever else is on one was given as ``extra``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        told = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


class LoggedStory(Story):
    """A command's story as lines of the log, so that stderr holds nothing but JSON."""

    def say(self, line: str) -> None:
        """Log one line."""
        logging.getLogger("deps.serve").info("%s", line)

    def warn(self, line: str) -> None:
        """Log one warning, with ``--quiet`` too."""
        logging.getLogger("deps.serve").warning("%s", line)


class StderrHandler(logging.Handler):
    """Writes to whatever stderr is at that moment, in whole lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def set_up_logs(level: str, style: LogFormat) -> None:
    """Send the log of the whole process to stderr.

    Args:
        level: the least that is written, one of ``LEVELS``.
        style: text or JSON.
    """
    formatter: logging.Formatter
    if style == "json":
        formatter = JsonFormatter()
        formatter.converter = time.gmtime
    else:
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler = StderrHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.handlers = [*(other for other in root.handlers if not isinstance(other, StderrHandler)), handler]
