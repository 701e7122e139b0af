"""Read the first bytes of a TensorRT engine, which tell whether it can run here before anything native touches it.

Relies on the plan layout of TensorRT 8.6 to 11 and TensorRT for RTX 1.x: magic at 0, total size at 16, version at 24,
and for RTX a mask of compute capabilities at 32. Needs no GPU and no TensorRT.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from deps.ground.errors import EngineError
from deps.serve.manifest import TensorRTFlavour

HEADER_BYTES = 36
REBUILD = "build it again with deps-serve build"

_MAGIC: dict[bytes, TensorRTFlavour] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}

# Bit by bit, as engines built for each capability alone carry them; the bit after the last means "and later".
_RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


@dataclass(frozen=True, slots=True)
class EngineHeader:
    """What an engine says of itself."""

    flavour: TensorRTFlavour
    """The package that built it."""

    size_bytes: int
    """Length that the whole engine must have."""

    version: tuple[int, int, int, int]
    """Major, minor, patch, build of that package."""

    compute_capabilities: tuple[str, ...]
    """Of an RTX engine, the GPUs it serves; empty for a full TensorRT engine, which does not say."""

    @property
    def version_text(self) -> str:
        """The version as people write it."""
        return ".".join(str(part) for part in self.version)


def read_header(engine: bytes) -> EngineHeader:
    """Read the header of an engine.

    Raises:
        EngineError: too short, or not an engine.
    """
    if len(engine) < HEADER_BYTES:
        raise EngineError(f"an engine of {len(engine)} bytes is cut short; expected at least {HEADER_BYTES}; {REBUILD}")
    magic = engine[:4]
    if magic not in _MAGIC:
        raise EngineError(
            f"the file starts with {magic!r}, so it is no TensorRT engine; expected 'ftrt' or 'vtrt'; {REBUILD}"
        )
    (size_bytes,) = struct.unpack_from("<Q", engine, 16)
    version = struct.unpack_from("<4B", engine, 24)
    capabilities: tuple[str, ...] = ()
    if _MAGIC[magic] == "tensorrt_rtx":
        (mask,) = struct.unpack_from("<I", engine, 32)
        capabilities = tuple(name for bit, name in enumerate(_RTX_CAPABILITIES) if mask >> bit & 1)
    return EngineHeader(_MAGIC[magic], size_bytes, version, capabilities)


def check_engine(engine: bytes, *, flavour: TensorRTFlavour, runtime_version: str) -> EngineHeader:
    """Check that an engine is whole and was built by the very runtime that shall run it.

    Args:
        engine: the bytes of the engine.
        flavour: the package at hand.
        runtime_version: its version; only an engine of the same major.minor.patch runs.

    Returns:
        What the engine says of itself.

    Raises:
        EngineError: cut short, of the other flavour, or of another version; the message says which.
    """
    header = read_header(engine)
    if header.flavour != flavour:
        raise EngineError(f"the engine was built by {header.flavour}; expected one built by {flavour}; {REBUILD}")
    if header.size_bytes != len(engine):
        raise EngineError(
            f"the engine has {len(engine)} bytes, so it was cut short; expected {header.size_bytes} by its header; "
            f"{REBUILD}"
        )
    here = tuple(int(part) for part in runtime_version.split(".")[:3] if part.isdigit())
    if header.version[: len(here)] != here:
        raise EngineError(
            f"the engine was built by {flavour} {header.version_text}; expected {runtime_version}, as here; {REBUILD}"
        )
    return header
