"""``deps-profile latency``, ``kit`` and ``measure``: from a device to a table.

Relies on ``kit.py`` and ``table.py`` for the work; here are flags, and what a person is told. Nothing heavy is imported
before it is known what to do.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deps.ground.console import Report, Story, add_common_flags
from deps.ground.errors import EngineError, LatencyTableError, MissingExtraError
from deps.profile.cli_flags import (
    add_conditions,
    add_resolutions,
    add_source,
    add_target,
    add_targets,
    at_least,
    command_parser,
    source_of,
    wanted_resolutions,
)

if TYPE_CHECKING:
    from deps.profile.backends.base import Backend
    from deps.profile.kit import Kit
    from deps.profile.latency import LatencyTable
    from deps.profile.measure import MeasureSettings
    from deps.profile.report import LatencyReport
    from deps.serve.targets import Target


def add_commands(commands: Any) -> None:
    """Add ``latency``, ``kit`` and ``measure`` to the subparsers of ``deps-profile``."""
    latency = command_parser(
        commands,
        "latency",
        "measure a latency table on this machine",
        "Measure a latency table on this machine, and its error on subnets it never saw: deps-profile kit and "
        "deps-profile measure in one. A table that exists and was measured alike is kept; a measurement that was "
        "killed goes on.",
        "deps-profile latency --space digits --target cpu --out tables/digits.json",
    )
    add_source(latency)
    add_target(latency)
    add_resolutions(latency)
    add_conditions(latency)
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

    kit = command_parser(
        commands,
        "kit",
        "write the nets that a device shall measure",
        "Write a measuring kit: a folder of ONNX nets and a manifest. Copy it to the device and run deps-profile "
        "measure there; the device needs neither torch nor onnx.",
        "deps-profile kit --space digits --target jetson-orin --out kit",
    )
    add_source(kit)
    add_target(kit)
    add_resolutions(kit)
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

    measure = command_parser(
        commands,
        "measure",
        "measure a kit on this device",
        "Measure a kit on this device and write the latency table, with its error. A measurement that was killed goes "
        "on where it was: the same command finds FILE.journal.",
        "deps-profile measure kit --out table.json",
    )
    measure.add_argument("kit", type=Path, metavar="KIT", help="folder written by deps-profile kit")
    add_targets(measure)
    add_conditions(measure)
    measure.add_argument("--precision", metavar="NAME", help="of the nets (default: the best that the backend runs)")
    measure.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table")
    measure.add_argument("--overwrite", action="store_true", help="replace the table that exists")
    add_common_flags(measure)
    measure.set_defaults(run=_measure)


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


def open_here(name: str, settings: MeasureSettings, target: Target) -> Backend:
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
    backend = open_here(name, settings, target)
    source = source_of(args, story)
    space = source.space
    resolutions = wanted_resolutions(args, space)
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
        wanted_resolutions(args, space),
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
    backend = open_here(name, settings, target)
    if args.out.exists() and not args.overwrite:
        raise LatencyTableError(f"{args.out} exists; replace it with --overwrite, or write elsewhere with --out")
    return _measured(kit, backend, settings, args.out, story, is_forced=args.force)
