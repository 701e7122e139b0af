"""``deps-profile latency``, ``kit``, ``measure``, ``check``, ``tables``: from a device to a table that can be believed.

Relies on ``kit.py``, ``table.py``, ``check.py`` and ``registry.py`` for the work; here are flags, and what a person is
told. Nothing heavy is imported before it is known what to do.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deps.ground.console import Report, Story, add_common_flags
from deps.ground.errors import EngineError, LatencyTableError, MissingExtraError

if TYPE_CHECKING:
    from deps.profile.backends.base import Backend
    from deps.profile.kit import Kit
    from deps.profile.latency import LatencyTable
    from deps.profile.measure import MeasureSettings
    from deps.profile.report import LatencyReport
    from deps.profile.source import Source
    from deps.serve.targets import Target
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


def _parser(commands: Any, name: str, text: str, description: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_commands(commands: Any) -> None:
    """Add the commands to the subparsers of ``deps-profile``."""
    latency = _parser(
        commands,
        "latency",
        "measure a latency table on this machine",
        "Measure a latency table on this machine, and its error on subnets it never saw: deps-profile kit and "
        "deps-profile measure in one. A table that exists and was measured alike is kept; a measurement that was "
        "killed goes on.",
        "deps-profile latency --space digits --target cpu --out tables/digits.json",
    )
    add_source(latency)
    _add_target(latency)
    _add_resolutions(latency)
    _add_conditions(latency)
    latency.add_argument("--precision", metavar="NAME", help="of the nets (default: the best that the backend runs)")
    latency.add_argument("--seed", type=at_least(0), default=0, help="chooses the nets that are measured (default: 0)")
    latency.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the table (default: RUN/latency/TARGET.json, without a run tables/TARGET-SPACE.json)",
    )
    latency.add_argument("--overwrite", action="store_true", help="measure again and replace the table that exists")
    add_common_flags(latency)
    latency.set_defaults(run=_latency)

    kit = _parser(
        commands,
        "kit",
        "write the nets that a device shall measure",
        "Write a measuring kit: a folder of ONNX nets and a manifest. Copy it to the device and run deps-profile "
        "measure there; the device needs neither torch nor onnx.",
        "deps-profile kit --space digits --target jetson-orin --out kit",
    )
    add_source(kit)
    _add_target(kit)
    _add_resolutions(kit)
    kit.add_argument(
        "--precision",
        action="append",
        metavar="NAME",
        help="write only this one; may be given again (default: all that the target knows)",
    )
    kit.add_argument(
        "--blocks",
        action="store_true",
        help="write each piece alone too, for a runtime that cannot look into nets (onnxruntime-cuda)",
    )
    kit.add_argument("--seed", type=at_least(0), default=0, help="chooses the nets (default: 0)")
    kit.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the kit")
    kit.add_argument("--overwrite", action="store_true", help="replace the kit that exists")
    add_common_flags(kit)
    kit.set_defaults(run=_kit)

    measure = _parser(
        commands,
        "measure",
        "measure a kit on this device",
        "Measure a kit on this device and write the latency table, with its error. A measurement that was killed goes "
        "on where it was: the same command finds FILE.journal.",
        "deps-profile measure kit --out table.json",
    )
    measure.add_argument("kit", type=Path, metavar="KIT", help="folder written by deps-profile kit")
    _add_targets(measure)
    _add_conditions(measure)
    measure.add_argument("--precision", metavar="NAME", help="of the nets (default: the best that the backend runs)")
    measure.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table")
    measure.add_argument("--overwrite", action="store_true", help="replace the table that exists")
    add_common_flags(measure)
    measure.set_defaults(run=_measure)

    check = _parser(
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
    _add_targets(check)
    _add_seconds(check)
    check.add_argument(
        "--force", action="store_true", help="judge although this machine is too unsteady to measure a table"
    )
    check.add_argument("--seed", type=at_least(0), default=1, help="chooses the fresh nets (default: 1)")
    check.add_argument("--svg", type=Path, metavar="FILE", help="the drawing (default: the table's name with .svg)")
    check.add_argument("--save", action="store_true", help="let the table state the error that was found")
    add_common_flags(check)
    check.set_defaults(run=_check)

    tables = _parser(
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


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", default="cpu", metavar="NAME", help="what the table is for (default: cpu)")
    _add_targets(parser)


def _add_targets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--targets", type=Path, metavar="FILE", help="TOML file with targets of your own")


def _add_resolutions(parser: argparse.ArgumentParser) -> None:
    chosen = f"(default: all, or {MANY_RESOLUTIONS} evenly spread ones where there are more)"
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--resolution", type=at_least(1), nargs="+", metavar="R", help=f"resolutions {chosen}")
    group.add_argument("--resolutions", type=_resolutions, metavar="R,R", help="the same, parted by commas")


def _add_conditions(parser: argparse.ArgumentParser) -> None:
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
    _add_seconds(parser)
    parser.add_argument(
        "--force", action="store_true", help="keep a table although it is noisy, or a line through the FLOPs is better"
    )


def _add_seconds(parser: argparse.ArgumentParser) -> None:
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


def _wanted_resolutions(args: argparse.Namespace, space: SearchSpace) -> tuple[int, ...]:
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


def _settings(args: argparse.Namespace, precision: Any) -> MeasureSettings:
    from deps.profile.backends.base import Conditions
    from deps.profile.measure import MAX_UNSTEADINESS, MeasureSettings

    return MeasureSettings(
        conditions=Conditions(precision, args.batch, args.threads, args.spin),
        seconds=args.seconds,
        check_visits=args.check_visits,
        is_isolated=args.isolated,
        max_unsteadiness=math.inf if args.force else MAX_UNSTEADINESS,
        accepts_disturbed=args.force,
    )


def _open(name: str, settings: MeasureSettings, target: Target) -> Backend:
    """Return the backend, or say which device is missing and how to get a table all the same.

    Raises:
        LatencyTableError: the device or the runtime is not here.
    """
    from deps.profile.backends import open_backend

    try:
        return open_backend(name, settings.conditions, target)
    except (EngineError, MissingExtraError) as error:
        raise LatencyTableError(
            f"{name} cannot run here: {error}. A table for {target.name} is measured on such a device: write a kit "
            f"here with deps-profile kit --target {target.name} --out kit, copy it there, and run deps-profile "
            "measure kit --out table.json; without a table, bound --flops instead of --latency"
        ) from error


def _latency(args: argparse.Namespace) -> Report:
    from deps.profile.backends import choose
    from deps.profile.kit import write_kit
    from deps.profile.latency import LatencyTable, find_table
    from deps.profile.report import LatencyReport
    from deps.serve.targets import get_target

    story = Story.from_args(args)
    target = get_target(args.target, args.targets)
    name, precision = choose(target, args.backend, args.precision, target.precisions)
    settings = _settings(args, precision)
    backend = _open(name, settings, target)
    source = source_of(args, story)
    space = source.space
    resolutions = _wanted_resolutions(args, space)
    default = find_table(source.run, target.name) if source.run else Path("tables") / f"{target.name}-{space.name}.json"
    path: Path = args.out or default
    if path.exists() and not args.overwrite:
        table = LatencyTable.load(path)
        _require_alike(path, table, space.name, target.name, settings, resolutions, backend)
        story.say(f"{path} was measured on this machine already; --overwrite measures it again")
        return LatencyReport(table, path, is_new=False)
    with tempfile.TemporaryDirectory(prefix="deps-profile-") as folder:
        story.say(f"writing the nets of {space.name} at {', '.join(map(str, resolutions))} px")
        kit = write_kit(
            Path(folder) / "kit",
            space,
            resolutions,
            target=target.name,
            precisions=[precision],
            blocks=args.isolated or not backend.has_node_times,
            seed=args.seed,
        )
        return _measured(kit, backend, settings, path, story, is_forced=args.force)


def _require_alike(
    path: Path,
    table: LatencyTable,
    space: str,
    target: str,
    settings: MeasureSettings,
    resolutions: Sequence[int],
    backend: Backend,
) -> None:
    """Complain when the table that exists is not the one that would be measured."""
    conditions = settings.conditions
    asked = {
        "space": space,
        "target": target,
        "backend": backend.name,
        "precision": conditions.precision,
        "threads": conditions.threads,
        "batch": conditions.batch,
    }
    found = table.conditions()
    differing = [f"{name} {found[name]} (now {value})" for name, value in asked.items() if found[name] != value]
    if found["device"] != backend.facts():
        differing.append("another device, another runtime, or other settings of them")
    if missing := sorted(set(resolutions) - set(table.resolutions)):
        differing.append(f"no resolution {', '.join(map(str, missing))}")
    if differing:
        raise LatencyTableError(
            f"{path} exists and was measured otherwise: {'; '.join(differing)}; "
            "replace it with --overwrite, or write elsewhere with --out"
        )


def _measured(
    kit: Kit, backend: Backend, settings: MeasureSettings, path: Path, story: Story, *, is_forced: bool
) -> LatencyReport:
    """Measure a kit, write the table if it is worth having, and return the report.

    Raises:
        LatencyTableError: it is not.
    """
    from deps.profile.anchor_energy import energy_of_anchors
    from deps.profile.report import LatencyReport
    from deps.profile.table import measure_kit

    journal = path.with_name(f"{path.name}.journal")
    table = measure_kit(kit, backend, settings, story, journal)
    assert table.error is not None
    if not table.beats_flops_line:
        line, own = table.error.flops_line_mape, table.error.mape
        reason = f"the table errs by {own:.1%} and a line through the FLOPs by {line:.1%} on the same held-out nets"
        if not is_forced:
            journal.unlink(missing_ok=True)
            raise LatencyTableError(
                f"{reason}, so it is not worth having and was not written; stop other programs and measure again, "
                "with more --seconds, or keep it with --force"
            )
        story.warn(f"{reason}; kept because of --force")
    table = replace(table, energy=energy_of_anchors(kit, backend, settings, story))
    table.save(path)
    journal.unlink(missing_ok=True)
    return LatencyReport(table, path, is_new=True)


def _kit(args: argparse.Namespace) -> Report:
    from deps.profile.kit import write_kit
    from deps.profile.report import KitReport
    from deps.serve.targets import get_target

    story = Story.from_args(args)
    target = get_target(args.target, args.targets)
    space = source_of(args, story).space
    kit = write_kit(
        args.out,
        space,
        _wanted_resolutions(args, space),
        target=target.name,
        precisions=args.precision or target.precisions,
        blocks=args.blocks,
        seed=args.seed,
        replace=args.overwrite,
    )
    return KitReport(kit)


def _measure(args: argparse.Namespace) -> Report:
    from deps.profile.backends import choose
    from deps.profile.kit import read_kit
    from deps.serve.targets import get_target

    story = Story.from_args(args)
    kit = read_kit(args.kit)
    target = get_target(kit.manifest.target, args.targets)
    name, precision = choose(target, args.backend, args.precision, kit.manifest.precisions)
    settings = _settings(args, precision)
    backend = _open(name, settings, target)
    if args.out.exists() and not args.overwrite:
        raise LatencyTableError(f"{args.out} exists; replace it with --overwrite, or write elsewhere with --out")
    return _measured(kit, backend, settings, args.out, story, is_forced=args.force)


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
    backend = _open(table.backend, settings, target)
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
