"""Read tables of block times that others measured: once-for-all's lookup tables in YAML, and a plain CSV file.

Two ways of naming a block are understood: the keys of our own tables, and those of once-for-all, such as
``expanded_conv-input:56x56x32-output:28x28x48-expand:96-kernel:3-stride:2-idskip:0-se:1-hs:0``. Relies on
``plan.py`` to name every piece that a space can have, so that what is missing is known before a search trips over it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from deps.ground.console import require
from deps.ground.errors import FileError, LatencyTableError
from deps.profile.foreign import pieces_at
from deps.profile.latency import Entry
from deps.profile.whole_nets import read_rows
from deps.supernet.pieces import ConvPlan, InvertedPlan, LinearPlan, Piece, PoolPlan
from deps.supernet.space import SearchSpace

YAML_SUFFIXES = (".yaml", ".yml")
MAX_NAMED = 2
"""So many keys of a kind are told by name on a terminal; ``--json`` tells all."""

COLUMNS = {
    "key": ("key",),
    "median_ms": ("median_ms", "mean_ms", "mean", "ms"),
    "spread_ms": ("spread_ms",),
    "std": ("std", "std_ms"),
    "runs": ("runs", "count"),
    "r": ("r", "resolution"),
}
"""What a column means, and how it may be called; ``key`` and the time are needed."""

# Half the distance between the quartiles of a normal distribution, in standard deviations.
QUARTILE = 0.6745

Dialect: TypeAlias = Literal["ours", "mobilenetv3", "proxyless"]
"""How a table names blocks: by our keys, or as once-for-all does for one of its families."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One line of somebody's table."""

    key: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Matching:
    """What became of the lines of a table when they were matched with a space."""

    entries: dict[str, Entry]
    """The time of each piece of the covered resolutions, by our key."""

    covered: tuple[int, ...]
    """Resolutions at which every piece has a time."""

    missing: dict[int, tuple[str, ...]]
    """For each other resolution the pieces without a time, by the names that the table would give them."""

    unmatched: tuple[str, ...]
    """Keys of the table that no subnet of the space has."""

    repeated: int
    """How many lines were joined with another of the same key, weighted by their runs."""


def read_tables(paths: Sequence[Path]) -> list[Timed]:
    """Return the lines of all files, ``.yaml`` and ``.yml`` as once-for-all writes them, all others as CSV.

    Raises:
        FileError: a file is missing or damaged.
        LatencyTableError: a time is not one; the message names file and key.
        MissingExtraError: PyYAML is not installed.
    """
    lines: list[Timed] = []
    for path in paths:
        lines += _read_yaml(path) if path.suffix.lower() in YAML_SUFFIXES else _read_csv(path)
    return lines


def _read_yaml(path: Path) -> list[Timed]:
    yaml = require("yaml", "compile")
    try:
        # The C loader, where there is one, is ten times faster; both make plain data only.
        value = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise FileError(f"{path} is no YAML file: {str(error).splitlines()[0]}") from error
    if not isinstance(value, dict) or not value:
        raise FileError(f"{path} is no lookup table; expected keys such as Conv-input:224x224x3-output:112x112x24")
    lines = []
    for key, what in value.items():
        facts = what if isinstance(what, dict) else {"mean": what}
        if "mean" not in facts:
            raise LatencyTableError(f"{path}: {key} has no mean; expected a number, or mean, std and count")
        lines.append(_timed(path, str(key), facts["mean"], facts.get("std"), None, facts.get("count")))
    return lines


def _read_csv(path: Path) -> list[Timed]:
    header, rows = read_rows(path)
    named = {meaning: next((n for n in names if n in header), None) for meaning, names in COLUMNS.items()}
    unknown = [name for name in header if name not in named.values()]
    if named["key"] is None or named["median_ms"] is None or unknown:
        known = "; ".join(" or ".join(names) for names in COLUMNS.values())
        wrong = f"columns {', '.join(unknown)} that mean nothing here" if unknown else "no column of keys or of times"
        raise LatencyTableError(f"{path} has {wrong} (columns: {', '.join(header)}); known are {known}")

    def cell(row: Mapping[str, str], meaning: str) -> str | None:
        name = named[meaning]
        return None if name is None or row[name] == "" else row[name]

    return [
        _timed(
            path, row[str(named["key"])], cell(row, "median_ms"), cell(row, "std"), cell(row, "spread_ms"),
            cell(row, "runs"),
        )
        for row in rows
    ]  # fmt: skip


def _timed(path: Path, key: str, time: Any, std: Any, spread: Any, runs: Any) -> Timed:
    def number(value: Any, what: str, default: float) -> float:
        if value is None and what != "the time":
            return default
        try:
            parsed = math.nan if value is None or isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            parsed = math.nan
        if not 0 <= parsed < math.inf:
            raise LatencyTableError(
                f"{path}: {what} of {key} is {value!r}; expected a number, in milliseconds, of at least 0"
            )
        return parsed

    spread_ms = number(spread, "the spread", QUARTILE * number(std, "the standard deviation", 0.0))
    return Timed(key, Entry(number(time, "the time", 0.0), spread_ms, round(number(runs, "the number of runs", 1))))


def match(space: SearchSpace, lines: Iterable[Timed]) -> Matching:
    """Find the pieces of a space in a table, by our keys or by once-for-all's.

    A key that stands in the table several times, as once-for-all's do for each resolution, gets the mean weighted by
    runs. Where one line times two of our pieces (``Logits`` of ProxylessNAS holds the pool too), the first piece gets
    the time and the second 0.
    """
    given, repeated = _joined(lines)
    dialect = _dialect(given)
    entries: dict[str, Entry] = {}
    missing: dict[int, tuple[str, ...]] = {}
    covered: list[int] = []
    used: set[str] = set()
    for resolution in space.resolutions:
        found: dict[str, Entry] = {}
        lacking: list[str] = []
        used_here: set[str] = set()
        pieces = pieces_at(space, resolution)
        size = max(piece.size_in for piece in pieces.values() if isinstance(piece, PoolPlan) and piece.kind == "mean")
        for key, piece in pieces.items():
            theirs = _ofa_name(piece, dialect, size, space.num_classes) or key
            name = key if key in given else theirs
            if name not in given:
                lacking.append(theirs)
                continue
            found[key] = Entry(0.0, 0.0, given[name].runs) if name in used_here else given[name]
            used_here.add(name)
        used |= used_here
        if lacking:
            missing[resolution] = tuple(lacking)
        else:
            covered.append(resolution)
            entries |= found
    unmatched = tuple(key for key in given if key not in used)
    return Matching(entries, tuple(covered), missing, unmatched, repeated)


def require_covered(space: SearchSpace, matching: Matching, wanted: Sequence[int] = ()) -> None:
    """Refuse a table that covers no resolution of the space, or not all that were asked for.

    Raises:
        LatencyTableError: with what is missing, by name and count.
    """
    lacking = [resolution for resolution in wanted if resolution in matching.missing]
    if matching.covered and not lacking:
        return
    # The resolution that is nearest to being covered tells most.
    by_count = sorted(lacking or matching.missing, key=lambda r: (len(matching.missing[r]), r))
    parts = [f"at {r} px {named(matching.missing[r])}" for r in by_count[:MAX_NAMED]]
    more = f"; and more at {len(by_count) - MAX_NAMED} other resolutions" if len(by_count) > MAX_NAMED else ""
    unmatched = f"; of no subnet: {named(matching.unmatched)}" if matching.unmatched else ""
    raise LatencyTableError(
        f"the table does not cover {space.name}: missing {'; '.join(parts)}{more}{unmatched}; "
        "name the space that was measured with --space, or add what is missing"
    )


def named(keys: Sequence[str]) -> str:
    """Return the number of some keys and the first of them by name: ``3 keys (a, b, c)``."""
    more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
    return f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} ({', '.join(keys[:MAX_NAMED])}{more})"


def _joined(lines: Iterable[Timed]) -> tuple[dict[str, Entry], int]:
    """Return one entry a key, and how many lines were joined with another."""
    by_key: dict[str, list[Entry]] = {}
    for line in lines:
        by_key.setdefault(line.key, []).append(line.entry)
    joined = {}
    for key, entries in by_key.items():
        # A line that says 0 runs still says a time.
        weights = [max(1, entry.runs) for entry in entries]
        median = sum(entry.median_ms * weight for entry, weight in zip(entries, weights, strict=True)) / sum(weights)
        spread = sum(entry.spread_ms * weight for entry, weight in zip(entries, weights, strict=True)) / sum(weights)
        joined[key] = Entry(median, spread, sum(entry.runs for entry in entries))
    return joined, sum(len(entries) for entries in by_key.values()) - len(by_key)


def _dialect(given: Iterable[str]) -> Dialect:
    blocks = [key for key in given if key.startswith("expanded_conv-")]
    if not blocks:
        return "ours"
    return "mobilenetv3" if any("-se:" in key for key in blocks) else "proxyless"


def _ofa_name(piece: Piece, dialect: Dialect, size: int, num_classes: int) -> str:
    """Return how once-for-all's lookup table calls a piece; nothing for what it has no word for.

    Args:
        piece: the piece.
        dialect: once-for-all names blocks of its two families differently.
        size: side of the last feature map, in pixels.
        num_classes: of the space.

    Source: ``latency_lookup_table.py`` of once-for-all.
    """
    if dialect == "ours":
        return ""
    if isinstance(piece, InvertedPlan):
        return _ofa_block_name(piece, dialect)
    if isinstance(piece, ConvPlan):
        layer = "Conv" if piece.name.startswith("stem.") else "Conv_1" if piece.has_norm else "Conv_2"
        sizes = (_shape(piece.size_in, piece.channels_in), _shape(piece.size_out, piece.channels_out))
        return f"{layer}-input:{sizes[0]}-output:{sizes[1]}"
    if isinstance(piece, PoolPlan) and piece.kind == "mean" and dialect == "mobilenetv3":
        return f"AvgPool2D-input:{_shape(size, piece.channels)}-output:{_shape(1, piece.channels)}"
    if isinstance(piece, LinearPlan) and dialect == "mobilenetv3":
        return f"Logits-input:{_shape(1, piece.features_in)}-output:{piece.features_out}"
    if isinstance(piece, LinearPlan) or (isinstance(piece, PoolPlan) and piece.kind == "mean"):
        # ``Logits`` of ProxylessNAS is all that follows the last convolution.
        channels = piece.features_in if isinstance(piece, LinearPlan) else piece.channels
        return f"Logits-input:{_shape(size, channels)}-output:{num_classes}"
    return ""


def _ofa_block_name(piece: InvertedPlan, dialect: Dialect) -> str:
    depthwise = piece.depthwise
    first = (piece.expand or depthwise).channels_in
    parts = [
        "expanded_conv",
        f"input:{_shape(depthwise.size_in, first)}",
        f"output:{_shape(depthwise.size_out, piece.project.channels_out)}",
        # For ProxylessNAS the ratio stands there, for MobileNetV3 the channels.
        f"expand:{round(depthwise.channels_out / first) if dialect == 'proxyless' else depthwise.channels_out}",
        f"kernel:{depthwise.kernel}",
        f"stride:{depthwise.stride}",
        f"idskip:{int(piece.has_shortcut)}",
    ]
    if dialect == "mobilenetv3":
        parts += [f"se:{int(piece.squeeze is not None)}", f"hs:{int(depthwise.activation == 'hswish')}"]
    return "-".join(parts)


def _shape(size: int, channels: int) -> str:
    return f"{size}x{size}x{channels}"
