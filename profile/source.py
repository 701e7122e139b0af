"""Which search space a command is about: a named one, or that of a run folder, read without torch.

Relies on ``supernet.json``, the description that stands beside the weights of every trained supernet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deps.ground.errors import DepsError, FileError, RunError
from deps.ground.files import read_json
from deps.supernet.space import SearchSpace
from deps.supernet.spaces import get_space, space_names

DESCRIPTION = "supernet.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Source:
    """A search space, and the run folder that it came from, if any."""

    space: SearchSpace
    run: Path | None


def find_source(*, run: Path | None, space: str | None, root: Path | str = "runs") -> Source:
    """Return the space of a run folder or the space of that name; by default that of the newest run.

    Args:
        run: a run folder.
        space: the name of a space that ships with deps.
        root: where run folders are looked for when neither is given.

    Raises:
        FileError: the run's description is missing or damaged.
        RunError: neither was given, and there is no trained run.
        SpaceError: there is no space of that name.
    """
    if space is not None:
        return Source(get_space(space), None)
    if run is None:
        described = sorted(Path(root).glob(f"*/{DESCRIPTION}"), key=lambda path: (path.stat().st_mtime_ns, path))
        if not described:
            raise RunError(
                f"there is no trained run in {root}/; name a space with --space ({', '.join(space_names())}), "
                "a run folder with --supernet, or train one: deps-train digits --out runs/digits"
            )
        run = described[-1].parent
    path = run / DESCRIPTION
    if not run.is_dir():
        raise RunError(f"{run} is not a run folder; expected one that deps-train wrote, with {DESCRIPTION} in it")
    described_as = read_json(path, schema_version=SCHEMA_VERSION)
    try:
        return Source(SearchSpace.from_dict(described_as["space"]), run)
    except (KeyError, DepsError) as error:
        raise FileError(f"{path} is damaged: {error}; train again, or take an older copy") from error
