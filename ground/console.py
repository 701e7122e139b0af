"""The manners that all four commands share: flags, exit codes, progress, and text beside JSON.

stdout carries the answer, stderr the story. Exit codes: 0 done, 1 could not be done, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from deps.ground.errors import DepsError, MissingExtraError

T = TypeVar("T")


class Report(Protocol):
    """What a command answers, as text for a person and as one JSON object."""

    def to_text(self) -> str:
        """Return what a person reads."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        ...


def deps_version() -> str:
    """Return the installed version of the distribution."""
    from importlib import metadata  # takes longer than all else that a command needs to start

    try:
        return metadata.version("deps-ofa")
    except metadata.PackageNotFoundError:
        return "0+unknown"


class _TellVersion(argparse.Action):
    """``--version``, which looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"deps {deps_version()}")
        parser.exit()


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``, ``--quiet`` and ``--verbose``, which mean the same in every command."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="say nothing on stderr but errors")
    parser.add_argument("--verbose", action="store_true", help="say more on stderr, with the traceback of an error")


def add_version_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--version``."""
    parser.add_argument("--version", action=_TellVersion, nargs=0, help="show the version and exit")


def require(module: str, extra: str) -> Any:
    """Import ``module``, or say how to install the extra that brings it.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise MissingExtraError(
            f"{missing} is not installed; install it with: pip install 'deps-ofa[{extra}]'"
        ) from error


def run_command(name: str, run: Callable[[argparse.Namespace], Report | None], args: argparse.Namespace) -> int:
    """Run one command and return its exit code; the report goes to stdout, an error to stderr in one line."""
    try:
        report = run(args)
        if report is not None:
            text = json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False) if args.json else report.to_text()
            print(text, flush=True)
    except DepsError as error:
        if args.verbose:
            traceback.print_exc()
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away (``deps-profile … | head``): not an error of ours, and nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


class Story:
    """What a command tells on stderr while it works: lines, and a bar where a person is watching."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Story:
        """Return the story that ``--quiet`` and ``--verbose`` ask for."""
        return cls(quiet=args.quiet, verbose=args.verbose)

    @property
    def is_terminal(self) -> bool:
        """Whether a person is watching stderr."""
        return not self.quiet and sys.stderr.isatty()

    def say(self, line: str) -> None:
        """Print one line, without breaking a bar that is shown."""
        if self.quiet:
            return
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)

    def detail(self, line: str) -> None:
        """Print one line when ``--verbose`` was given."""
        if self.verbose:
            self.say(line)

    def warn(self, line: str) -> None:
        """Print one warning, with ``--quiet`` too: nothing a user must know is hidden."""
        from tqdm import tqdm

        tqdm.write(f"warning: {line}", file=sys.stderr)

    def track(self, items: Iterable[T], what: str, *, total: int, unit: str = "it") -> Iterator[T]:
        """Yield ``items`` with a progress bar on a terminal, and in silence elsewhere."""
        with self.bar(what, total=total, unit=unit) as bar:
            for item in items:
                yield item
                bar.update()

    def bar(self, what: str, *, total: int, initial: int = 0, unit: str = "it") -> Any:
        """Return a tqdm bar that shows on a terminal only."""
        from tqdm import tqdm

        size = shutil.get_terminal_size((100, 24))
        return tqdm(
            desc=what,
            total=total,
            initial=initial,
            unit=unit,
            disable=not self.is_terminal,
            leave=False,
            file=sys.stderr,
            # A terminal that tells no size (in some containers) would get a bar of no size.
            ncols=size.columns,
            nrows=size.lines,
        )


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an aligned table; the first column is flush left, the others flush right."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(cells[0]), rule, *[line(row) for row in cells[1:]]])
