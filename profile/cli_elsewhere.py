"""``deps-profile import`` and ``deps-profile fit``: latency tables from times that were taken elsewhere.

Relies on ``importers.py`` and ``foreign.py`` for the work; here are flags, and what a person is told.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deps.ground.console import Report, Story, add_common_flags
from deps.ground.errors import FileError, LatencyTableError

if TYPE_CHECKING:
    from deps.profile.foreign import Conditions
    from deps.profile.importers import Matching
    from deps.profile.report import LatencyReport
    from deps.profile.source import Source


def add_commands(commands: Any) -> None:
    """Add ``import`` and ``fit`` to the subparsers of ``deps-profile``."""
    importing = commands.add_parser(
        "import",
        help="make a latency table of block times that others measured",
        description="Make a latency table of block times that others measured: once-for-all's lookup tables (.yaml) "
        "or CSV with the columns key, median_ms (or mean) and, if known, spread_ms (or std), runs (or count) and r. "
        "Keys are those of our own tables or once-for-all's. The table's error is unknown unless --check gives times "
        "of whole subnets.",
        epilog="example:\n  deps-profile import note10_lut.csv --space ofa-mbv3-w1.2 --target cpu "
        "--measured-on 'Samsung Note10' --out tables/note10.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    importing.add_argument("files", type=Path, nargs="+", metavar="FILE", help="once-for-all's YAML, or CSV")
    _add_flags(importing)
    importing.add_argument(
        "--resolution", type=int, nargs="+", metavar="R", help="these only, all of which must be covered"
    )
    importing.add_argument("--check", type=Path, metavar="CSV", help="times of whole subnets, as for deps-profile fit")
    importing.add_argument("--column", metavar="NAME", help="the column of --check with the milliseconds")
    add_common_flags(importing)
    importing.set_defaults(run=_import)

    fitting = commands.add_parser(
        "fit",
        help="fit a latency table to times of whole subnets",
        description="Fit a latency table to times of whole subnets, at least 10 and better 50. The file is CSV: "
        "d, ks, e (and w) as digits or as numbers parted by spaces, r, and a column of milliseconds; or one column "
        "arch with JSON in place of the choices. Its error is that of cross-validation.",
        epilog="example:\n  deps-profile fit measurements.csv --space ofa-mbv3-w1.2 --target rtx --batch 64 "
        "--column titan_rtx_64_ms --out tables/titan-64.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fitting.add_argument("file", type=Path, metavar="FILE", help="CSV, one row a subnet")
    _add_flags(fitting)
    fitting.add_argument("--column", metavar="NAME", help="milliseconds (default: the only column that ends in ms)")
    fitting.add_argument("--seed", type=int, default=0, help="of the folds of cross-validation (default: 0)")
    fitting.add_argument("--force", action="store_true", help="keep a table although a line through FLOPs is better")
    add_common_flags(fitting)
    fitting.set_defaults(run=_fit)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--supernet", type=Path, metavar="RUN", help="run folder (default: the newest in runs/)")
    source.add_argument("--space", metavar="NAME", help="a search space by its name, without any run")
    parser.add_argument("--target", required=True, metavar="NAME", help="what the table is for, e.g. jetson-orin")
    parser.add_argument("--targets", type=Path, metavar="FILE", help="TOML file with targets of your own")
    parser.add_argument("--batch", type=_positive, default=1, metavar="N", help="images of a run (default: 1)")
    parser.add_argument("--threads", type=_positive, default=1, metavar="N", help="threads of a run (default: 1)")
    parser.add_argument("--backend", default="unknown", metavar="TEXT", help="what ran the nets, e.g. 'torch 2.1'")
    parser.add_argument("--precision", default="unknown", metavar="TEXT", help="in which precision, e.g. fp32")
    parser.add_argument("--measured-on", default="unknown", metavar="TEXT", help="the device, e.g. 'Samsung Note10'")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the table (default: RUN/latency/TARGET.json, without a run tables/TARGET-SPACE.json)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the table that exists")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


@dataclass(frozen=True, slots=True)
class ElsewhereReport:
    """A table from elsewhere, where it lies, and what of the file became of it."""

    latency: LatencyReport
    matching: Matching | None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints; every key that came to nothing is named."""
        plain = {**self.latency.to_dict(), "origin": self.latency.table.origin}
        if self.matching is not None:
            facts = asdict(self.matching)
            facts.pop("entries")
            plain["matching"] = {**facts, "missing": {str(r): keys for r, keys in facts["missing"].items()}}
        return plain

    def to_text(self) -> str:
        """Return the table's conditions and error, and the file."""
        return self.latency.to_text()


def _begin(args: argparse.Namespace, story: Story) -> tuple[Source, Path, Conditions]:
    """Return the space, where the table shall lie, and what the user says of the times."""
    from deps.profile.foreign import Conditions
    from deps.profile.latency import find_table
    from deps.profile.source import find_source
    from deps.serve.targets import get_target

    target = get_target(args.target, args.targets).name
    source = find_source(run=args.supernet, space=args.space)
    if args.supernet is None and source.run is not None:
        story.say(f"taking the newest run, {source.run} ({source.space.name})")
    default = find_table(source.run, target) if source.run else Path("tables") / f"{target}-{source.space.name}.json"
    path: Path = args.out or default
    if path.exists() and not args.overwrite:
        raise FileError(f"{path} exists already; replace it with --overwrite, or write elsewhere with --out")
    conditions = Conditions(
        target=target,
        batch=args.batch,
        threads=args.threads,
        backend=args.backend,
        precision=args.precision,
        device=args.measured_on,
    )
    return source, path, conditions


def _import(args: argparse.Namespace) -> Report:
    from deps.ground.files import sha256_of
    from deps.profile.foreign import checked, imported_table
    from deps.profile.importers import match, read_tables, require_covered
    from deps.profile.latency import ERROR_UNKNOWN
    from deps.profile.report import LatencyReport
    from deps.profile.whole_nets import read_whole_nets

    story = Story.from_args(args)
    if args.column is not None and args.check is None:
        raise LatencyTableError("--column names a column of --check, which was not given; give both or neither")
    source, path, conditions = _begin(args, story)
    space = source.space
    wanted = sorted(set(args.resolution or ()))
    if unknown := [r for r in wanted if r not in space.resolutions]:
        known = ", ".join(map(str, space.resolutions))
        raise LatencyTableError(f"resolution is {unknown[0]}; choices in {space.name}: {known}")
    matching = match(space, read_tables(args.files))
    _tell(story, space.name, matching, wanted)
    require_covered(space, matching, wanted)
    covered = tuple(wanted) if wanted else matching.covered
    source_facts = {
        "file": ", ".join(file.name for file in args.files),
        "sha256": [sha256_of(file) for file in args.files],
        "unmatched_keys": len(matching.unmatched),
    }
    table = imported_table(space, matching.entries, covered, conditions, source_facts)
    if args.check is None:
        story.warn(f"{ERROR_UNKNOWN}; give times of whole subnets with --check")
    else:
        table = checked(table, space, read_whole_nets(args.check, space, column=args.column))
    table.save(path)
    return ElsewhereReport(LatencyReport(table, path, is_new=True), matching)


def _tell(story: Story, space: str, matching: Matching, wanted: Sequence[int]) -> None:
    """Say what of a table came to nothing, by name and count."""
    from deps.profile.importers import named

    if matching.unmatched:
        story.warn(f"no subnet of {space} has {named(matching.unmatched)}")
    left_out = {r: keys for r, keys in matching.missing.items() if not wanted or r in wanted}
    if matching.covered and left_out:
        px = ", ".join(map(str, left_out))
        first, keys = next(iter(left_out.items()))
        story.warn(f"not covered and left out: {px} px; e.g. at {first} px the table lacks {named(keys)}")
    if matching.repeated:
        story.detail(f"{matching.repeated} lines were joined with another of the same key, weighted by runs")


def _fit(args: argparse.Namespace) -> Report:
    from deps.profile.foreign import fitted_table
    from deps.profile.report import LatencyReport
    from deps.profile.whole_nets import read_whole_nets

    story = Story.from_args(args)
    source, path, conditions = _begin(args, story)
    nets = read_whole_nets(args.file, source.space, column=args.column)
    table = fitted_table(source.space, nets, conditions, seed=args.seed)
    if table.error is not None and not table.beats_flops_line:
        reason = (
            f"the fit errs by {table.error.mape:.1%} on subnets it did not see, and a line through the FLOPs by "
            f"{table.error.flops_line_mape:.1%}"
        )
        if not args.force:
            raise LatencyTableError(
                f"{reason}, so it is not worth having and was not written; measure more subnets, of all sizes, or "
                "keep it with --force"
            )
        story.warn(f"{reason}; kept because of --force")
    table.save(path)
    return ElsewhereReport(LatencyReport(table, path, is_new=True), None)
