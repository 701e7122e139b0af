"""Engines that were built on this device: beside each, a record that vouches for it as the manifest does for the rest.

Relies on the bundle's folder: ``engines/<name>.engine`` counts only when ``engines/<name>.json`` describes it, and the
record is written last.
"""

from __future__ import annotations

from typing import NamedTuple

from deps.ground.errors import BundleError, FileError
from deps.ground.files import read_json, whole_file, write_json
from deps.serve.bundle import Bundle
from deps.serve.manifest import EngineFile
from deps.serve.records import plain_from_record, record_from_plain

REBUILD = "delete it, or build again with deps-serve build"


class FoundEngines(NamedTuple):
    """What a bundle holds in engines, and why some of it does not count."""

    engines: list[EngineFile]
    complaints: list[str]


def engine_path(subnet: str, precision: str, key: str) -> str:
    """Return where an engine lies in the bundle."""
    return f"engines/{subnet}-{precision}-{key[:16]}.engine"


def store_engine(bundle: Bundle, engine: bytes, record: EngineFile) -> None:
    """Write an engine and then its record, each whole or not at all.

    Raises:
        FileError: the disk is full, or the bundle's folder cannot be written.
    """
    place = bundle.folder / record.path
    with whole_file(place) as temporary:
        temporary.write_bytes(engine)
    write_json(place.with_suffix(".json"), plain_from_record(record))


def find_engines(bundle: Bundle) -> FoundEngines:
    """Return the engines that came with the bundle and those built beside it, as far as they can be trusted.

    An engine built beside the bundle counts when its record is in order, its bytes are the recorded ones, and it was
    compiled from an ONNX file that the bundle still holds.
    """
    engines, complaints = list(bundle.manifest.engines), []
    listed = {engine.path for engine in engines}
    current = {model.sha256 for subnet in bundle.manifest.subnets for model in subnet.models}
    for place in sorted((bundle.folder / "engines").glob("*.json")):
        try:
            record = record_from_plain(
                EngineFile, read_json(place), error=BundleError, source=str(place), remedy=REBUILD
            )
            if record.path in listed:
                continue
            if record.path != f"engines/{place.stem}.engine":
                raise BundleError(f"{place} describes {record.path}; expected engines/{place.stem}.engine; {REBUILD}")
            if record.built_from not in current:
                raise BundleError(
                    f"{record.path} was built from an older model; expected one of this bundle; {REBUILD}"
                )
            bundle.check(record)
            engines.append(record)
        except (BundleError, FileError) as error:
            complaints.append(str(error))
    return FoundEngines(engines, complaints)
