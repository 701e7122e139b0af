"""Open a bundle: a folder whose every file is checked against its manifest before anything reads it.

Relies on ``manifest.py`` for the manifest itself; refuses paths and links that leave the folder, and half-written ones.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from deps.ground.errors import BundleError, FileError
from deps.ground.files import read_json, sha256_of_stream
from deps.serve.manifest import MANIFEST_NAME, REMAKE, BundleFile, Manifest

_TEMPORARY = re.compile(r"\..+\.\d+(\.old)?\.tmp")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder and its manifest, every file of which was found whole and unaltered."""

    folder: Path
    """The folder, resolved."""

    manifest: Manifest
    """What ``manifest.json`` says."""

    def locate(self, path: str) -> Path:
        """Return the real place of a file of the bundle.

        Raises:
            BundleError: the file is missing, is no plain file, or a link leads out of the folder.
        """
        place = self.folder / path
        try:
            real = place.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise BundleError(
                f"{place} is missing, yet {MANIFEST_NAME} names it; copy the whole bundle, or {REMAKE}"
            ) from error
        if not real.is_relative_to(self.folder):
            raise BundleError(
                f"{place} leads out of the bundle, to {real}; "
                "expected a file inside the folder; replace the link by the file"
            )
        if not real.is_file():
            raise BundleError(f"{place} is not a file, yet {MANIFEST_NAME} names it as one; {REMAKE}")
        return real

    def check(self, file: BundleFile) -> None:
        """Compare a file's size and hash with what its record says.

        Raises:
            BundleError: it is missing, or not the file that was described.
        """
        real = self.locate(file.path)
        self._check_size(file, real.stat().st_size)
        with real.open("rb") as stream:
            self._check_hash(file, sha256_of_stream(stream))

    def read_bytes(self, file: BundleFile) -> bytes:
        """Return a file's content, checked once more: what is returned is what the record vouches for.

        Raises:
            BundleError: it is missing, or was altered since the bundle was opened.
        """
        real = self.locate(file.path)
        self._check_size(file, real.stat().st_size)
        content = real.read_bytes()
        self._check_hash(file, hashlib.sha256(content).hexdigest())
        return content

    def _check_size(self, file: BundleFile, size_bytes: int) -> None:
        if size_bytes != file.size_bytes:
            raise BundleError(
                f"{self.folder / file.path} has {size_bytes} bytes; expected {file.size_bytes}; "
                f"it was cut short or altered: copy the bundle again, or {REMAKE}"
            )

    def _check_hash(self, file: BundleFile, sha256: str) -> None:
        if sha256 != file.sha256:
            raise BundleError(
                f"{self.folder / file.path} has the hash {sha256[:12]}…; expected {file.sha256[:12]}…; "
                f"it was altered, and is not opened: copy the bundle again, or {REMAKE}"
            )


def _absent(path: Path) -> BundleError:
    unfinished = sorted(neighbour.name for neighbour in path.parent.glob(f".{path.name}.*.tmp"))
    if unfinished:
        return BundleError(
            f"{path} does not exist, but the unfinished {unfinished[0]} stands beside it; "
            "expected a finished bundle; let deps-extract end, or run it again"
        )
    return BundleError(f"{path} does not exist; expected a bundle folder; make one with deps-extract")


def read_bundle(path: Path | str) -> Bundle:
    """Read a bundle's manifest and check every file it names.

    Raises:
        BundleError: no bundle, a half-written one, a bad manifest, or a file that is missing, altered or outside.
    """
    path = Path(path)
    if _TEMPORARY.fullmatch(path.name):
        raise BundleError(
            f"{path} is a half-written bundle; expected a finished one; let deps-extract end, or run it again"
        )
    if not path.exists():
        raise _absent(path)
    if not path.is_dir():
        raise BundleError(f"{path} is not a folder; expected a bundle folder that holds {MANIFEST_NAME}")
    folder = path.resolve()
    if not (folder / MANIFEST_NAME).exists():
        raise BundleError(
            f"{path} holds no {MANIFEST_NAME}; expected a bundle; it is unfinished or another folder: {REMAKE}"
        )
    try:
        plain = read_json(folder / MANIFEST_NAME)
    except FileError as error:
        raise BundleError(f"{error}; expected the manifest of a bundle; {REMAKE}") from error
    bundle = Bundle(folder, Manifest.from_dict(plain, source=str(path / MANIFEST_NAME)))
    for file in bundle.manifest.files():
        bundle.check(file)
    return bundle
