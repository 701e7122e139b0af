"""The registry of targets: what each family of devices can run, as data in ``targets.toml`` and in a user's own file.

Relies on ``records.py`` to read the tables strictly; a user's table of a known name replaces ours.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deps.ground.errors import TargetError
from deps.serve.manifest import Backend, BatchProfile, Precision, TensorRTFlavour
from deps.serve.records import record_from_plain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUILTIN = Path(__file__).with_name("targets.toml")
USER_FILE_VARIABLE = "DEPS_TARGETS"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A device family and how it runs a model."""

    name: str
    """As the user writes it after ``--target``."""

    description: str
    """One line for a person."""

    backends: tuple[Backend, ...]
    """What may run a model there, best first."""

    precisions: tuple[Precision, ...]
    """What is worth trying there, best first."""

    build: Literal["here", "device", "none"]
    """Where its TensorRT engines are made: at extraction without a GPU, on the device, or nowhere."""

    max_batch: int
    """Largest batch of an engine unless the user says otherwise."""

    runtime: TensorRTFlavour | None = None
    """The TensorRT package; None without TensorRT."""

    runtime_versions: tuple[str, ...] = ()
    """Versions of that package that are met on such devices; empty when any may be."""

    compute_capabilities: tuple[str, ...] = ()
    """Of its GPUs, e.g. ``("8.7",)``."""

    memory_bytes: int | None = None
    """Memory of the smallest device of the family; None when it varies."""

    workspace_bytes: int | None = None
    """Scratch memory that building and running an engine may take; None leaves TensorRT's own limit."""

    aliases: tuple[str, ...] = ()
    """Other names of the same target."""

    def __post_init__(self) -> None:
        if not self.backends or not self.precisions:
            raise TargetError("backends and precisions are needed; expected at least one of each")
        if self.max_batch < 1:
            raise TargetError(f"max_batch is {self.max_batch}; expected at least 1")
        has_tensorrt = "tensorrt" in self.backends
        if has_tensorrt != (self.runtime is not None) or has_tensorrt == (self.build == "none"):
            raise TargetError(
                f"runtime is {self.runtime!r} and build is {self.build!r}; expected a runtime and a place to build "
                "exactly when 'tensorrt' is among the backends"
            )
        if self.build == "here" and self.runtime != "tensorrt_rtx":
            raise TargetError("build is 'here'; expected 'device': only TensorRT for RTX builds without the GPU")

    @property
    def profile(self) -> BatchProfile:
        """The batch sizes its engines accept: tuned for one image, as a device meets them."""
        return BatchProfile(min=1, opt=1, max=self.max_batch)


def user_file(path: Path | str | None = None) -> Path | None:
    """Return the file of the user's own targets: ``path``, else ``$DEPS_TARGETS``, else the one in the config folder.

    Returns:
        None when none was named and the config folder has none.
    """
    if path is not None:
        return Path(path)
    if named := os.environ.get(USER_FILE_VARIABLE):
        return Path(named)
    try:
        config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    except RuntimeError:  # neither $HOME nor a name, as a container's user
        return None
    default = config / "deps" / "targets.toml"
    return default if default.exists() else None


def read_targets(path: Path) -> dict[str, Target]:
    """Read the targets of one TOML file, by name.

    Raises:
        TargetError: the file is missing, not TOML, or a table of it is malformed; the message names table and key.
    """
    remedy = "correct the file; serve/targets.toml shows the form"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise TargetError(
            f"{path} cannot be read: {reason}; expected a TOML file of targets; check --targets"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"{path} is not TOML ({error}); {remedy}") from error
    targets = {}
    for name, table in tables.items():
        if not isinstance(table, dict) or "name" in table:
            raise TargetError(
                f"{path}: {name} is no table of a target; expected [{name}] with the keys below; {remedy}"
            )
        targets[name] = record_from_plain(
            Target, {**table, "name": name}, error=TargetError, source=f"{path} [{name}]", remedy=remedy
        )
    return targets


def load_targets(path: Path | str | None = None) -> dict[str, Target]:
    """Return all targets by name, ours and the user's.

    Args:
        path: the user's file; by default as ``user_file`` finds it.

    Raises:
        TargetError: the user's file is missing or malformed.
    """
    targets = read_targets(BUILTIN)
    own = user_file(path)
    return targets if own is None else {**targets, **read_targets(own)}


def get_target(name: str, path: Path | str | None = None) -> Target:
    """Return a target by its name or an alias.

    Args:
        name: e.g. ``"jetson"``.
        path: the user's own file; by default as ``user_file`` finds it.

    Raises:
        TargetError: the name is unknown; the message lists the known.
    """
    targets = load_targets(path)
    if name in targets:
        return targets[name]
    for target in targets.values():
        if name in target.aliases:
            return target
    known = ", ".join(target.name + "".join(f" (= {alias})" for alias in target.aliases) for target in targets.values())
    raise TargetError(
        f"there is no target {name!r}; expected one of {known}; add your own in a TOML file with --targets"
    )
