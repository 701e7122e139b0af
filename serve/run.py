"""``deps-serve run``: classify pictures on disk with a bundle, without a server.

Relies on the same engine choice, decoding and ranking as the server, so both give the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deps.ground.console import Story, text_table
from deps.ground.errors import FileError
from deps.serve.bundle import read_bundle
from deps.serve.engines.base import FloatArray, infer_in_parts
from deps.serve.family import EngineOptions, open_family
from deps.serve.images import image_from_bytes
from deps.serve.manifest import InputSpec
from deps.serve.ranking import RankedClass, top_classes
from deps.serve.refusals import RefusedError


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReport:
    """The best classes of each picture, and what computed them."""

    model: str
    """Name of the bundle's model."""

    subnet: str
    """The subnet that answered."""

    precision: str
    """Precision of its file."""

    engine: str
    """The backend, with its version."""

    images: list[tuple[str, list[RankedClass]]]
    """Each picture's path and best classes, best first."""

    def to_text(self) -> str:
        """Return a table a picture."""
        blocks = []
        for name, classes in self.images:
            rows = [(entry.label, f"{100 * entry.score:.1f} %") for entry in classes]
            blocks.append(text_table((name, "score"), rows))
        return "\n\n".join(blocks)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        images = [{"image": name, "classes": [entry.to_dict() for entry in classes]} for name, classes in self.images]
        facts = {"model": self.model, "subnet": self.subnet, "precision": self.precision, "engine": self.engine}
        return {**facts, "images": images}


def run_bundle(path: Path, pictures: list[Path], options: EngineOptions, story: Story, *, top: int = 5) -> RunReport:
    """Classify pictures.

    Args:
        path: the bundle's folder.
        pictures: JPEG or PNG files.
        options: which subnet, and what runs it.
        story: told what was chosen, and why.
        top: how many classes to name for each.

    Raises:
        BundleError: the bundle is incomplete, altered or unsafe.
        EngineError: nothing here can run it.
        FileError: a picture cannot be read from the disk.
        RefusedError: a file is no picture; the message names it.
    """
    bundle = read_bundle(path)
    manifest = bundle.manifest
    subnet = options.subnet or manifest.default_subnet.name
    (member,) = open_family(bundle, replace(options, subnet=subnet))
    engine = member.engine
    story.say(f"{manifest.name}, subnet {engine.subnet}, on {member.choice}")
    logits_NV = infer_in_parts(engine, np.stack([_read_picture(picture, manifest.input) for picture in pictures]))
    engine.close()
    return RunReport(
        model=manifest.name,
        subnet=engine.subnet,
        precision=engine.precision,
        engine=engine.name,
        images=[
            (str(picture), top_classes(logits_V, manifest.labels, top))
            for picture, logits_V in zip(pictures, logits_NV, strict=True)
        ],
    )


def _read_picture(path: Path, spec: InputSpec) -> FloatArray:
    try:
        return image_from_bytes(path.read_bytes(), spec)
    except OSError as error:
        reason = error.strerror or error
        raise FileError(f"{path} cannot be read: {reason}; expected a JPEG or PNG file; check the path") from error
    except RefusedError as error:
        raise RefusedError(f"{path}: {error}", status=error.status) from error
