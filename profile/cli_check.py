"""``deps-profile check`` and ``tables``: whether a table can be believed, and which there are.

Relies on ``check.py`` and ``registry.py`` for the work; here are flags, and what a person is told.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deps.ground.console import Report, Story, add_common_flags
from deps.ground.errors import LatencyTableError
from deps.profile.cli_flags import add_seconds, add_targets, at_least, command_parser
from deps.profile.cli_measure import open_here

if TYPE_CHECKING:
    from deps.profile.kit import Kit
    from deps.profile.latency import LatencyTable


def add_commands(commands: Any) -> None:
    """Add ``check`` and ``tables`` to the subparsers of ``deps-profile``."""
    check = command_parser(
        commands,
        "check",
        "measure again whether a table foretells the truth",
        "Measure held-out subnets on this device and compare them with what a table foretells; prints its error "
        "beside that of a line through the FLOPs, and draws predicted against measured.",
        "deps-profile check tables/digits.json",
    )
    check.add_argument("table", type=Path, metavar="TABLE", help="a latency table of this device")
    check.add_argument(
        "--kit", type=Path, metavar="KIT", help="nets to judge by (default: fresh ones, which needs onnx)"
    )
    add_targets(check)
    add_seconds(check)
    check.add_argument(
        "--force", action="store_true", help="judge although this machine is too unsteady to measure a table"
    )
    check.add_argument("--seed", type=at_least(0), default=1, help="chooses the fresh nets (default: 1)")
    check.add_argument("--svg", type=Path, metavar="FILE", help="the drawing (default: the table's name with .svg)")
    check.add_argument("--save", action="store_true", help="let the table state the error that was found")
    add_common_flags(check)
    check.set_defaults(run=_check)

    tables = command_parser(
        commands,
        "tables",
        "list the latency tables that can be found",
        "List the latency tables of a run folder, of tables/ and of $DEPS_TABLES, and those that were shipped, with "
        "device and error.",
        "deps-profile tables",
    )
    tables.add_argument("--supernet", type=Path, metavar="RUN", help="also those of this run folder")
    add_common_flags(tables)
    tables.set_defaults(run=_tables)


def _check(args: argparse.Namespace) -> Report:
    from deps.profile.backends.base import Conditions
    from deps.profile.check import check_table, require_device
    from deps.profile.latency import LatencyTable
    from deps.profile.measure import MAX_UNSTEADINESS, MeasureSettings
    from deps.serve.targets import get_target

    story = Story.from_args(args)
    table = LatencyTable.load(args.table)
    if table.origin != "measured" or table.error is None:
        raise LatencyTableError(
            f"{args.table} was {table.origin} and not measured by deps, so there is no device to ask here; "
            "compare it with times of whole subnets: deps-profile import --check"
        )
    target = get_target(table.target, args.targets)
    spin = bool(table.device.get("spin", False))
    precision: Any = table.precision
    settings = MeasureSettings(
        Conditions(precision, table.batch, table.threads, spin),
        args.seconds,
        args.check_visits,
        max_unsteadiness=math.inf if args.force else MAX_UNSTEADINESS,
        accepts_disturbed=args.force,
    )
    backend = open_here(table.backend, settings, target)
    require_device(table, args.table, backend)
    with _judges(args, table, story) as kit:
        picture = args.svg or args.table.with_suffix(".svg")
        report = check_table(table, args.table, kit, backend, settings, story, picture)
    if args.save:
        report.table.save(args.table)
    return report


@contextlib.contextmanager
def _judges(args: argparse.Namespace, table: LatencyTable, story: Story) -> Iterator[Kit]:
    """Yield the kit that a table is judged by: the user's, or a fresh one."""
    from deps.profile.kit import read_kit, write_kit
    from deps.supernet.spaces import get_space

    if args.kit is not None:
        kit = read_kit(args.kit)
        if kit.space.name != table.space or not set(kit.resolutions) <= set(table.resolutions):
            raise LatencyTableError(
                f"{args.kit} holds {kit.space.name} at {', '.join(map(str, kit.resolutions))} px; expected "
                f"{table.space} at some of {', '.join(map(str, table.resolutions))} px; write such a kit"
            )
        yield kit
        return
    with tempfile.TemporaryDirectory(prefix="deps-profile-") as folder:
        story.say(f"writing fresh nets of {table.space} (seed {args.seed})")
        precision: Any = table.precision
        yield write_kit(
            Path(folder) / "kit",
            get_space(table.space),
            table.resolutions,
            target=table.target,
            precisions=[precision],
            seed=args.seed,
        )


def _tables(args: argparse.Namespace) -> Report:
    from deps.profile.registry import TablesReport, find_tables

    return TablesReport(tuple(find_tables(args.supernet)))
