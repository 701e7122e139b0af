"""``deps-profile``: what a subnet costs, counted; and how long it takes, measured.

Relies on ``deps.ground.console`` for the manners of a command; everything heavy is imported after ``--help``.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deps.ground.console import Report, Story, add_common_flags, add_version_flag, run_command
from deps.ground.errors import LatencyTableError
from deps.profile.cli_elsewhere import add_commands as add_elsewhere
from deps.profile.cli_memory import add_command as add_memory

if TYPE_CHECKING:
    from deps.profile.latency import LatencyTable
    from deps.profile.measure import MeasureSettings
    from deps.profile.source import Source

MANY_RESOLUTIONS = 4
"""A space with more choices is measured at so many of them, evenly spread, unless the user names them."""


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


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
    _add_source(flops)
    flops.add_argument(
        "--arch", action="append", default=[], metavar="TEXT", help="largest, smallest, or JSON; may be given again"
    )
    flops.add_argument("--sample", type=_at_least(1), default=0, metavar="N", help="count N random subnets too")
    flops.add_argument("--seed", type=_at_least(0), default=0, help="seed of the random subnets (default: 0)")
    flops.add_argument("--resolution", type=_at_least(1), metavar="R", help="at this resolution, whatever --arch says")
    flops.add_argument("--verify", action="store_true", help="have fvcore count too, and fail if it differs")
    add_common_flags(flops)
    flops.set_defaults(run=_flops)

    latency = commands.add_parser(
        "latency",
        help="measure a latency table on this machine",
        description="Measure a latency table on this machine with ONNX Runtime, and its error on subnets it never "
        "saw. A table that exists and was measured alike is kept.",
        epilog="example:\n  deps-profile latency --space digits --target cpu --out tables/digits.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_source(latency)
    latency.add_argument("--target", default="cpu", metavar="NAME", help="what the table is for (default: cpu)")
    latency.add_argument("--targets", type=Path, metavar="FILE", help="TOML file with targets of your own")
    latency.add_argument(
        "--resolution",
        type=_at_least(1),
        nargs="+",
        metavar="R",
        help=f"resolutions to measure (default: all, or {MANY_RESOLUTIONS} evenly spread ones where there are more)",
    )
    latency.add_argument("--threads", type=_at_least(1), default=1, metavar="N", help="threads of a run (default: 1)")
    latency.add_argument("--batch", type=_at_least(1), default=1, metavar="N", help="images of a run (default: 1)")
    latency.add_argument("--seed", type=_at_least(0), default=0, help="chooses the nets that are measured (default: 0)")
    latency.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the table (default: RUN/latency/TARGET.json, without a run tables/TARGET-SPACE.json)",
    )
    latency.add_argument("--overwrite", action="store_true", help="measure again and replace the table that exists")
    latency.add_argument(
        "--seconds",
        type=_at_least(1),
        default=25,
        metavar="S",
        help="most time for the rounds of a resolution; steady times need less (default: 25)",
    )
    latency.add_argument(
        "--force", action="store_true", help="keep a table although it is noisy, or a line through the FLOPs is better"
    )
    add_common_flags(latency)
    latency.set_defaults(run=_latency)
    add_elsewhere(commands)
    add_memory(commands)
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--supernet", type=Path, metavar="RUN", help="run folder (default: the newest in runs/)")
    source.add_argument("--space", metavar="NAME", help="a search space by its name, without any run")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``deps-profile``; return its exit code."""
    args = build_parser().parse_args(argv)
    return run_command(f"deps-profile {args.command}", args.run, args)


def _source(args: argparse.Namespace, story: Story) -> Source:
    from deps.profile.source import find_source

    source = find_source(run=args.supernet, space=args.space)
    if args.supernet is None and source.run is not None:
        story.say(f"taking the newest run, {source.run} ({source.space.name})")
    return source


def _flops(args: argparse.Namespace) -> Report:
    import numpy as np

    from deps.profile.report import counted
    from deps.supernet.arch import ArchSpec
    from deps.supernet.sampling import random_archs

    space = _source(args, Story.from_args(args)).space
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


def _latency(args: argparse.Namespace) -> Report:
    from deps.profile.latency import MEASURABLE, LatencyTable, find_table
    from deps.profile.measure import MAX_UNSTEADINESS, MeasureSettings
    from deps.profile.report import LatencyReport
    from deps.serve.targets import get_target

    story = Story.from_args(args)
    target = get_target(args.target, args.targets)
    if target.name not in MEASURABLE:
        raise LatencyTableError(
            f"a table for {target.name} must be measured on such a device with its own runtime, which this version "
            "cannot yet do; use --target cpu here, or bound --flops instead of --latency when extracting"
        )
    source = _source(args, story)
    space = source.space
    resolutions = tuple(sorted(set(args.resolution))) if args.resolution else _default_resolutions(space.resolutions)
    for resolution in resolutions:
        if resolution not in space.resolutions:
            known = ", ".join(map(str, space.resolutions))
            raise LatencyTableError(f"resolution is {resolution}; choices in {space.name}: {known}")
    default = find_table(source.run, target.name) if source.run else Path("tables") / f"{target.name}-{space.name}.json"
    path: Path = args.out or default
    settings = MeasureSettings(
        threads=args.threads,
        batch=args.batch,
        max_seconds=args.seconds,
        max_unsteadiness=math.inf if args.force else MAX_UNSTEADINESS,
    )
    if path.exists() and not args.overwrite:
        table = LatencyTable.load(path)
        _require_alike(path, table, space.name, target.name, settings, resolutions)
        story.say(f"{path} was measured on this machine already; --overwrite measures it again")
        return LatencyReport(table, path, is_new=False)

    table = _measured(source, target.name, resolutions, settings, args.seed, story)
    if table.error is not None and not table.beats_flops_line:
        line, own = table.error.flops_line_mape, table.error.mape
        reason = f"the table errs by {own:.1%} and a line through the FLOPs by {line:.1%} on the same held-out nets"
        if not args.force:
            raise LatencyTableError(
                f"{reason}, so it is not worth having and was not written; stop other programs and measure again, "
                "or keep it with --force"
            )
        story.warn(f"{reason}; kept because of --force")
    table.save(path)
    return LatencyReport(table, path, is_new=True)


def _default_resolutions(choices: tuple[int, ...]) -> tuple[int, ...]:
    if len(choices) <= MANY_RESOLUTIONS:
        return choices
    last = len(choices) - 1
    return tuple(choices[round(i * last / (MANY_RESOLUTIONS - 1))] for i in range(MANY_RESOLUTIONS))


def _require_alike(
    path: Path,
    table: LatencyTable,
    space: str,
    target: str,
    settings: MeasureSettings,
    resolutions: Sequence[int],
) -> None:
    """Complain when the table that exists is not the one that would be measured."""
    from deps.profile.table import fingerprint

    asked = {"space": space, "target": target, "threads": settings.threads, "batch": settings.batch}
    found = table.conditions()
    differing = [f"{name} {found[name]} (now {value})" for name, value in asked.items() if found[name] != value]
    if found["device"] != fingerprint():
        differing.append("another device or another onnxruntime")
    if missing := sorted(set(resolutions) - set(table.resolutions)):
        differing.append(f"no resolution {', '.join(map(str, missing))}")
    if differing:
        raise LatencyTableError(
            f"{path} exists and was measured otherwise: {'; '.join(differing)}; "
            "replace it with --overwrite, or write elsewhere with --out"
        )


def _measured(
    source: Source, target: str, resolutions: Sequence[int], settings: MeasureSettings, seed: int, story: Story
) -> LatencyTable:
    """Write a kit to a temporary folder, measure it, and return the table."""
    from deps.profile.kit import write_kit
    from deps.profile.table import measure_kit

    with tempfile.TemporaryDirectory(prefix="deps-profile-") as folder:
        story.say(f"writing the nets of {source.space.name} at {', '.join(map(str, resolutions))} px")
        kit = write_kit(Path(folder) / "kit", source.space, resolutions, target=target, seed=seed)
        return measure_kit(kit, settings, story)


if __name__ == "__main__":
    sys.exit(main())
