"""``deps-profile``: what a subnet costs, counted; and how long it takes, measured.

Relies on ``deps.ground.console`` for the manners of a command; everything heavy is imported after ``--help``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from deps.ground.console import Report, Story, add_common_flags, add_version_flag, run_command
from deps.profile.cli_check import add_commands as add_checking
from deps.profile.cli_elsewhere import add_commands as add_elsewhere
from deps.profile.cli_flags import add_source, at_least, source_of
from deps.profile.cli_measure import add_commands as add_measuring
from deps.profile.cli_memory import add_command as add_memory


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="deps-profile",
        description="Count what subnets cost, and measure how long they take on this machine.",
        epilog="example:\n  deps-profile flops --space ofa-mbv3-w1.0 --verify",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version_flag(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    flops = commands.add_parser(
        "flops",
        help="count multiply-adds, parameters and memory",
        description="Count multiply-adds (convolutions and linear layers, one image), parameters, the peak of "
        "activation memory and the bytes of the weights. Without --arch and --sample: the smallest and the largest.",
        epilog='example:\n  deps-profile flops --space ofa-mbv3-w1.0 --arch \'{"ks": 5, "e": 4, "d": 3, "r": 160}\'',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source(flops)
    flops.add_argument(
        "--arch", action="append", default=[], metavar="TEXT", help="largest, smallest, or JSON; may be given again"
    )
    flops.add_argument("--sample", type=at_least(1), default=0, metavar="N", help="count N random subnets too")
    flops.add_argument("--seed", type=at_least(0), default=0, help="seed of the random subnets (default: 0)")
    flops.add_argument("--resolution", type=at_least(1), metavar="R", help="at this resolution, whatever --arch says")
    flops.add_argument("--verify", action="store_true", help="have fvcore count too, and fail if it differs")
    add_common_flags(flops)
    flops.set_defaults(run=_flops)

    add_measuring(commands)
    add_checking(commands)
    add_elsewhere(commands)
    add_memory(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``deps-profile``; return its exit code."""
    args = build_parser().parse_args(argv)
    return run_command(f"deps-profile {args.command}", args.run, args)


def _flops(args: argparse.Namespace) -> Report:
    import numpy as np

    from deps.profile.report import counted
    from deps.supernet.arch import ArchSpec
    from deps.supernet.sampling import random_archs

    space = source_of(args, Story.from_args(args)).space
    texts = args.arch or ([] if args.sample else ["smallest", "largest"])
    named = [
        (text if text in ("smallest", "largest") else f"arch {i}", ArchSpec.parse(space, text))
        for i, text in enumerate(texts, start=1)
    ]
    rng = np.random.default_rng(args.seed)
    named += [(f"random {i}", arch) for i, arch in enumerate(random_archs(space, args.sample, rng), start=1)]
    if args.resolution is not None:
        at = {"resolution": args.resolution}
        named = [(name, ArchSpec.from_dict(space, {**arch.to_dict(), **at})) for name, arch in named]
    return counted(space, named, verify=args.verify)


if __name__ == "__main__":
    sys.exit(main())
