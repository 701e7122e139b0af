"""``deps-profile memory``: what a subnet needs in memory, predicted beside measured.

Relies on ``memory_check.py``; here are the flags.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from deps.ground.console import Report, Story, add_common_flags


def add_command(commands: Any) -> None:
    """Add ``memory`` to the subparsers of ``deps-profile``."""
    memory = commands.add_parser(
        "memory",
        help="predict and measure the memory of subnets",
        description="Predict the memory of subnets (feature maps that live at once, and weights) and measure what a "
        "session of ONNX Runtime adds to a fresh process. Without --arch: the smallest and the largest.",
        epilog="example:\n  deps-profile memory --space digits --arch largest --batch 8",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = memory.add_mutually_exclusive_group()
    source.add_argument("--supernet", type=Path, metavar="RUN", help="run folder (default: the newest in runs/)")
    source.add_argument("--space", metavar="NAME", help="a search space by its name, without any run")
    memory.add_argument(
        "--arch", action="append", default=[], metavar="TEXT", help="largest, smallest, or JSON; may be given again"
    )
    memory.add_argument("--batch", type=_positive, default=1, metavar="N", help="images of a run (default: 1)")
    memory.add_argument("--threads", type=_positive, default=1, metavar="N", help="threads of a run (default: 1)")
    memory.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what runs it (default: cpu)")
    add_common_flags(memory)
    memory.set_defaults(run=_memory)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _memory(args: argparse.Namespace) -> Report:
    from deps.profile.memory_check import MemoryReport, memory_of
    from deps.profile.source import find_source
    from deps.supernet.arch import ArchSpec

    story = Story.from_args(args)
    source = find_source(run=args.supernet, space=args.space)
    if args.supernet is None and source.run is not None:
        story.say(f"taking the newest run, {source.run} ({source.space.name})")
    named = [
        (text if text in ("smallest", "largest") else f"arch {i}", ArchSpec.parse(source.space, text))
        for i, text in enumerate(args.arch or ["smallest", "largest"], start=1)
    ]
    conditions = {"batch": args.batch, "threads": args.threads, "device": args.device}
    subnets = [
        memory_of(source.space, name, arch, **conditions)
        for name, arch in story.track(named, "measuring", total=len(named), unit="subnet")
    ]
    return MemoryReport(space=source.space.name, subnets=tuple(subnets), **conditions)
