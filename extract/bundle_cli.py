"""``deps-extract verify`` and ``deps-extract triton``: what can be done with a bundle that stands already.

Relies on ``deps.ground.console`` for the manners of a command; everything heavy is imported after ``--help``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deps.ground.console import Report, Story, add_common_flags, run_command

if TYPE_CHECKING:
    from deps.extract.recheck import VerifyReport

COMMANDS = ("verify", "triton")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of both commands."""
    parser = argparse.ArgumentParser(prog="deps-extract", description="Verify a bundle, or hand it on to Triton.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    verify = commands.add_parser(
        "verify",
        help="check every file of a bundle again",
        description="Check every hash of a bundle, run every model again, and hold it against the manifest. Exits with "
        "1 when anything does not hold.",
        epilog="example: deps-extract verify bundles/cpu-300M --supernet runs/digits",
    )
    verify.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that deps-extract wrote")
    verify.add_argument(
        "--supernet", type=Path, metavar="RUN", help="the run it was made from: counts accuracies again"
    )
    verify.add_argument("--data", type=Path, metavar="FOLDER", help="pictures in place of the run's")
    triton = commands.add_parser(
        "triton",
        help="write a Triton model repository",
        description="Write a Triton model repository from a bundle: one model for each subnet.",
        epilog="example: deps-extract triton bundles/h100-300M models",
    )
    triton.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that deps-extract wrote")
    triton.add_argument("folder", type=Path, metavar="DIR", help="the repository; a new or an empty folder")
    triton.add_argument("--uint8", action="store_true", help="let models take raw pixels, a quarter of the bytes")
    triton.add_argument("--targets", type=Path, metavar="FILE", help="TOML file with targets of your own")
    for command in commands.choices.values():
        add_common_flags(command)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run one of the commands; return its exit code."""
    args = build_parser().parse_args(argv)
    if args.command == "triton":
        return run_command("deps-extract triton", _triton, args)
    found: list[VerifyReport] = []

    def verify(args: argparse.Namespace) -> Report:
        found.append(_verify(args))
        return found[0]

    code = run_command("deps-extract verify", verify, args)
    return 1 if found and found[0].mismatches else code


def _verify(args: argparse.Namespace) -> VerifyReport:
    from deps.extract.recheck import verify_bundle
    from deps.train.run import open_run

    run = open_run(args.supernet) if args.supernet is not None else None
    return verify_bundle(args.bundle, Story.from_args(args), run=run, data=args.data)


def _triton(args: argparse.Namespace) -> Report:
    from deps.extract.triton import write_repository
    from deps.serve.bundle import read_bundle
    from deps.serve.targets import get_target

    bundle = read_bundle(args.bundle)
    target = get_target(bundle.manifest.target, args.targets)
    return write_repository(bundle, target, args.folder, takes_raw=args.uint8)
