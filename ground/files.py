"""Files and folders that appear whole or not at all, and JSON that says what is wrong with it.

Relies on ``os.replace`` being atomic within one file system; temporary names stand beside the final ones.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deps.ground.errors import FileError


def _explain(error: OSError, path: Path) -> FileError:
    """Turn an ``OSError`` met while writing ``path`` into a message a person can use."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason, remedy = "the disk is full", "free some space and run the command again"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason, remedy = "permission denied", "choose another place with --out"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        reason, remedy = (error.strerror or "not a folder").lower(), "choose another place with --out"
    else:
        reason, remedy = (error.strerror or str(error)).lower(), "mend that and run the command again"
    return FileError(f"cannot write {path}: {reason}; nothing was changed there; {remedy}")


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a rename never precedes its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _process_lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def remove_leftovers(path: Path) -> None:
    """Remove the temporary neighbours of ``path`` that killed processes left behind."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        pid = leftover.name.removesuffix(".tmp").rpartition(".")[2]
        if pid.isdigit() and int(pid) != os.getpid() and not _process_lives(int(pid)):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends well, and vanishes when it does not.

    Raises:
        FileError: the disk is full, or the place cannot be written.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        # The reason why the block failed matters, not that there is nothing to clean up.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes ``path`` when the block ends well.

    Args:
        path: where the folder shall appear.
        replace: whether an existing folder is exchanged; the old one stays until the new one is complete.

    Raises:
        FileError: ``path`` exists and ``replace`` is false, the disk is full, or the place cannot be written.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise FileError(f"{path} exists already; choose another place with --out, or remove it first")
    temporary, retired = _temporary(path), path.with_name(f".{path.name}.old.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                _sync(file)
        if path.exists():
            os.replace(path, retired)
        try:
            os.replace(temporary, path)
        except OSError:
            if retired.exists():
                os.replace(retired, path)
            raise
        _sync(path.parent)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(retired, ignore_errors=True)


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any) -> str:
    """Return ``value`` as indented JSON; NaN and infinity are refused, since other readers refuse them."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json_text(value))


def read_json(path: Path | str, *, schema_version: int | None = None) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        schema_version: what its ``schema_version`` must be; unchecked when None.

    Raises:
        FileError: the file is missing, not JSON, not an object, or of another schema version.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileError(f"{path} is damaged: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise FileError(f"{path} is damaged: expected a JSON object, found {type(value).__name__}")
    if schema_version is not None and value.get("schema_version") != schema_version:
        raise FileError(
            f"{path} has schema_version {value.get('schema_version')!r}; this deps reads {schema_version}; "
            "write it again with this version, or install the one that wrote it"
        )
    return value


def sha256_of(path: Path | str) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return sha256_of_stream(stream)


def sha256_of_stream(stream: Any) -> str:
    """Return the SHA-256 of what is left in a binary stream."""
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
