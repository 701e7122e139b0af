"""Flags that several commands of ``deps-profile`` share, so that each means the same everywhere.

Relies on nothing heavy: what reads a space or a run is imported when a flag is understood.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deps.ground.console import Story
from deps.ground.errors import LatencyTableError

if TYPE_CHECKING:
    from deps.profile.source import Source
    from deps.supernet.space import SearchSpace

MANY_RESOLUTIONS = 4
"""A space with more choices is measured at so many of them, evenly spread, unless the user names them."""

SECONDS = 10
"""Default of ``--seconds``."""


def at_least(least: int) -> Callable[[str], int]:
    """Return a parser of whole numbers that are not smaller than ``least``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


def _resolutions(text: str) -> tuple[int, ...]:
    parse = at_least(1)
    return tuple(sorted({parse(part) for part in text.split(",")}))


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which search space is meant."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--supernet", type=Path, metavar="RUN", help="run folder (default: the newest in runs/)")
    source.add_argument("--space", metavar="NAME", help="a search space by its name, without any run")


def source_of(args: argparse.Namespace, story: Story) -> Source:
    """Return the search space that the flags name."""
    from deps.profile.source import find_source

    source = find_source(run=args.supernet, space=args.space)
    if args.supernet is None and source.run is not None:
        story.say(f"taking the newest run, {source.run} ({source.space.name})")
    return source


def command_parser(commands: Any, name: str, text: str, description: str, example: str) -> argparse.ArgumentParser:
    """Add a command whose help ends with an example that runs, and return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add what a table is for."""
    parser.add_argument("--target", default="cpu", metavar="NAME", help="what the table is for (default: cpu)")
    add_targets(parser)


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Add where targets of the user stand."""
    parser.add_argument("--targets", type=Path, metavar="FILE", help="TOML file with targets of your own")


def add_resolutions(parser: argparse.ArgumentParser) -> None:
    """Add which resolutions are meant."""
    chosen = f"(default: all, or {MANY_RESOLUTIONS} evenly spread ones where there are more)"
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--resolution", type=at_least(1), nargs="+", metavar="R", help=f"resolutions {chosen}")
    group.add_argument("--resolutions", type=_resolutions, metavar="R,R", help="the same, parted by commas")


def add_conditions(parser: argparse.ArgumentParser) -> None:
    """Add how every net runs, and for how long."""
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="onnxruntime, onnxruntime-cuda, tensorrt, torch-cuda, torch-cuda-eager (default: what serves the target)",
    )
    parser.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="threads of a run (default: 1)")
    parser.add_argument(
        "--spin", action="store_true", help="let idle threads wait in a loop, which the server does not do"
    )
    parser.add_argument("--batch", type=at_least(1), default=1, metavar="N", help="images of a run (default: 1)")
    parser.add_argument(
        "--isolated",
        action="store_true",
        help="time each piece alone although the runtime can look into whole nets; less accurate",
    )
    add_seconds(parser)
    parser.add_argument(
        "--force", action="store_true", help="keep a table although it is noisy, or a line through the FLOPs is better"
    )


def add_seconds(parser: argparse.ArgumentParser) -> None:
    """Add for how long is measured."""
    parser.add_argument(
        "--seconds",
        type=at_least(1),
        default=SECONDS,
        metavar="S",
        help="time for the runs that make the table, for each resolution; as much again, and more, goes into checks "
        f"and probes; steady times need less (default: {SECONDS})",
    )
    parser.add_argument(
        "--check-visits",
        type=at_least(1),
        default=1,
        metavar="N",
        help="visit each held-out net N times as often: the stated error gets more certain (default: 1)",
    )


def wanted_resolutions(args: argparse.Namespace, space: SearchSpace) -> tuple[int, ...]:
    """Return the resolutions that the flags name, or a few of the space.

    Raises:
        LatencyTableError: the space has no such resolution.
    """
    chosen = tuple(sorted(set(args.resolution or args.resolutions or ())))
    for resolution in chosen:
        if resolution not in space.resolutions:
            known = ", ".join(map(str, space.resolutions))
            raise LatencyTableError(f"resolution is {resolution}; choices in {space.name}: {known}")
    choices = space.resolutions
    if chosen or len(choices) <= MANY_RESOLUTIONS:
        return chosen or choices
    last = len(choices) - 1
    return tuple(choices[round(i * last / (MANY_RESOLUTIONS - 1))] for i in range(MANY_RESOLUTIONS))
