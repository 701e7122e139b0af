"""Put a bundle together: models, engines where they can be built here, instructions, and the manifest that vouches.

Relies on ``ground.files.whole_folder``: the bundle is written beside its place and renamed, so that what stands there
is whole, and an older bundle stays until the new one is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deps.extract.export import Exports
from deps.extract.precision import BACKENDS
from deps.extract.raw_input import IMAGE, checked_raw_input
from deps.ground.console import Story
from deps.ground.errors import BundleError, DataError, FileError, MissingExtraError
from deps.ground.files import sha256_of, whole_folder
from deps.serve.build import build_planned, models_to_build, plan_build
from deps.serve.bundle import read_bundle
from deps.serve.manifest import (
    EngineFile,
    InputSpec,
    Latency,
    Manifest,
    OutputSpec,
    RawInput,
    SubnetEntry,
    model_file,
    write_manifest,
)
from deps.serve.targets import Target
from deps.supernet import ArchSpec, SearchSpace
from deps.train.data import ImageData


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What the subnet costs for one image."""

    flops: int
    params: int
    activation_bytes: int
    weight_bytes: int


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Member:
    """One subnet of a bundle."""

    name: str
    """Unique in the bundle."""

    arch: ArchSpec
    costs: Costs
    exports: Exports
    latency: Mapping[str, Latency]
    """By target."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Contents:
    """Everything that a bundle says and holds."""

    target: Target
    space: SearchSpace
    members: tuple[Member, ...]
    """The subnets, most accurate first; all take images of one size, so that any of them can answer any request."""

    data: ImageData
    search: Mapping[str, Any]
    provenance: Mapping[str, Any]
    extras: Mapping[str, bytes]
    """Further files by path, such as the plot."""

    def __post_init__(self) -> None:
        sizes = sorted({member.arch.resolution for member in self.members})
        if len(sizes) != 1:
            raise BundleError(f"the subnets take images of {sizes} pixels; expected one size, and at least one subnet")

    @property
    def resolution(self) -> int:
        """Side of the images that every subnet takes."""
        return self.members[0].arch.resolution

    def notes(self) -> tuple[str, ...]:
        """Return which precision of which subnet was left out, and why."""
        if len(self.members) == 1:
            return self.members[0].exports.notes()
        return tuple(f"{member.name}: {note}" for member in self.members for note in member.exports.notes())


def check_place(out: Path) -> bool:
    """Return whether a whole bundle stands at ``out``, which will be replaced.

    Raises:
        BundleError: something stands there that is not a whole bundle, which is not ours to remove.
        FileError: no folder can be made there; better said before a long search than after it.
    """
    if not out.exists() and not out.is_symlink():
        ground = next(parent for parent in out.absolute().parents if parent.exists())
        if not ground.is_dir() or not os.access(ground, os.W_OK | os.X_OK):
            reason = "permission denied" if ground.is_dir() else "not a folder"
            raise FileError(f"cannot write {out}: {ground}: {reason}; choose another place with --out")
        return False
    if out.is_dir() and not any(out.iterdir()):
        return False
    try:
        read_bundle(out)
    except BundleError as error:
        raise BundleError(
            f"something that is not a whole bundle stands at {out}, and is left alone ({error}); "
            "remove it, or choose another place with --out"
        ) from error
    return True


def input_spec(data: ImageData, space: SearchSpace, resolution: int) -> InputSpec:
    """Return how a picture becomes the input of a subnet at ``resolution``.

    Raises:
        DataError: the data set resizes in a way that the server does not.
    """
    preprocessing = data.preprocessing
    if preprocessing.interpolation != "bilinear":
        raise DataError(
            f"{data.name} resizes with {preprocessing.interpolation} interpolation; the server knows bilinear; "
            "train on the data set with bilinear preprocessing"
        )
    resize = preprocessing.resize_for(resolution)
    return InputSpec(
        shape=(space.in_channels, resolution, resolution),
        color=preprocessing.color,
        mean=preprocessing.mean,
        std=preprocessing.std,
        resize=resize,
        crop=None if resize is None else resolution,
    )


def write_bundle(out: Path, contents: Contents, story: Story) -> Manifest:
    """Write the bundle whole, replacing an older one, and read it back.

    Raises:
        FileError: the disk is full, or the place cannot be written.
        EngineError: TensorRT for RTX cannot build an engine of a model that passed all checks.
    """
    is_replacing = check_place(out)
    with whole_folder(out, replace=out.exists()) as folder:
        entries = tuple(_write_models(folder, member) for member in contents.members)
        engines, notes = _write_engines(folder, contents.target, entries, story)
        manifest = Manifest(
            name=contents.data.name,
            target=contents.target.name,
            input=input_spec(contents.data, contents.space, contents.resolution),
            output=OutputSpec(classes=contents.space.num_classes),
            labels=contents.data.classes,
            subnets=entries,
            engines=engines,
            raw_input=_write_raw_input(folder, contents.data),
            search=dict(contents.search),
            provenance={**contents.provenance, "checks": _checks(contents)},
            notes=(*contents.notes(), *notes),
        )
        for path, content in contents.extras.items():
            _write(folder / path, content)
        _write(folder / "README.md", instructions(manifest, contents.target, has_report=bool(contents.extras)).encode())
        write_manifest(folder, manifest)
    if is_replacing:
        story.say(f"replaced the older bundle at {out}")
    return read_bundle(out).manifest


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _checks(contents: Contents) -> dict[str, int]:
    """Return on how many images the files were judged, so that whoever verifies the bundle takes the same."""
    first = contents.members[0].exports.entries[0]
    assert first.validation is not None
    assert first.test is not None
    return {
        "validation_images": first.validation.images,
        "test_images": first.test.images,
        "compared_with_torch": first.validation.compared,
    }


def _write_raw_input(folder: Path, data: ImageData) -> RawInput:
    """Write the graph that lets every model take raw pixels."""
    path = "models/uint8.onnx"
    _write(folder / path, checked_raw_input(data.preprocessing))
    size_bytes = (folder / path).stat().st_size
    return RawInput(path=path, sha256=sha256_of(folder / path), size_bytes=size_bytes, name=IMAGE)


def _write_models(folder: Path, member: Member) -> SubnetEntry:
    models = []
    for export in member.exports.shipped:
        assert export.validation is not None
        assert export.test is not None
        path = f"models/{member.name}/{export.precision}.onnx"
        _write(folder / path, export.content)
        models.append(
            model_file(
                folder,
                path,
                precision=export.precision,
                backends=BACKENDS[export.precision],
                top1=export.test.top1 if member.exports.is_measured else None,
                top1_validation=export.validation.top1 if member.exports.is_measured else None,
                max_abs_error=max(export.validation.max_abs_error, export.test.max_abs_error),
            )
        )
    return SubnetEntry(
        name=member.name,
        arch=member.arch.to_dict(),
        flops=member.costs.flops,
        params=member.costs.params,
        activation_bytes=member.costs.activation_bytes,
        weight_bytes=member.costs.weight_bytes,
        models=tuple(models),
        latency=dict(member.latency),
    )


def _write_engines(
    folder: Path, target: Target, entries: tuple[SubnetEntry, ...], story: Story
) -> tuple[tuple[EngineFile, ...], tuple[str, ...]]:
    """Build the engines that can be built here; return them, and what a person should know."""
    if target.build == "none":
        return (), ()
    if target.build == "device":
        return (), (f"engines are built on the device: deps-serve build; see README.md ({target.description})",)
    engines = []
    try:
        for entry, model in [(each, model) for each in entries for model in models_to_build(each, target)]:
            plan = plan_build(target, entry.name, model)
            story.detail(f"building a {plan.model.precision} engine with {target.runtime} {plan.runtime_version}")
            engine, record, _ = build_planned((folder / model.path).read_bytes(), plan)
            _write(folder / record.path, engine)
            engines.append(record)
    except MissingExtraError as error:
        story.warn(f"no engine was built: {error}")
        return (), (f"no engine was built: {error}; or build it later with deps-serve build",)
    return tuple(engines), ()


def _accuracy(top1: float | None) -> str:
    return "of unknown accuracy: there were no images" if top1 is None else f"{100 * top1:.2f} % on test images"


def instructions(manifest: Manifest, target: Target, *, has_report: bool = True) -> str:
    """Return the page that tells what to do with the bundle, in Markdown."""
    files = "\n".join(
        f"- `{model.path}`: {model.precision}, {_accuracy(model.top1)}"
        for subnet in manifest.subnets
        for model in subnet.models
    )
    names = [f"`{subnet.name}`" for subnet in manifest.subnets]
    subnets = f"One subnet, {names[0]}" if len(names) == 1 else f"{len(names)} subnets, the most accurate {names[0]}"
    if target.build == "device":
        steps = _ON_DEVICE
    elif manifest.engines:
        steps = _WITH_ENGINES
    elif target.build == "here":
        steps = _ENGINES_LATER
    else:
        steps = _PLAIN
    notes = "".join(f"- {note}\n" for note in manifest.notes)
    return _PAGE.format(
        name=manifest.name,
        target=target.name,
        description=target.description,
        subnets=subnets,
        report="; `report/index.html` shows what was chosen, and among what" if has_report else "",
        files=files,
        steps=steps,
        notes=f"\n## Notes\n\n{notes}" if notes else "",
    )


_PAGE = """\
# {name} for {target}

{description}. {subnets}; every file was run against the network it was exported from.

{files}

`manifest.json` describes and vouches for all of it{report}.

## Run it

{steps}{notes}"""

_ON_DEVICE = """\
Copy this folder to the device. A TensorRT engine runs only where it was built: the device builds its own, once.

    python3 -m venv --system-site-packages ~/deps    # so that JetPack's TensorRT is seen
    ~/deps/bin/pip install deps-ofa                  # without JetPack: 'deps-ofa[tensorrt]'
    ~/deps/bin/deps-serve build .                    # some minutes; kept for every later start
    ~/deps/bin/deps-serve .
"""

_WITH_ENGINES = """\
The TensorRT engine lies in `engines/`; it runs on every GPU of the family, with the version it was built by.

    pip install 'deps-ofa[tensorrt-rtx]'
    deps-serve .
"""

_ENGINES_LATER = """\
No engine lies in this bundle yet, because TensorRT for RTX was not installed where it was made.

    pip install 'deps-ofa[tensorrt-rtx]'
    deps-serve build .                               # needs no GPU
    deps-serve .
"""

_PLAIN = """\
    pip install deps-ofa
    deps-serve .
"""
