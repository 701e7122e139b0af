"""The manifest of a bundle: what the folder holds, what it was measured to be worth, and the hashes that vouch for it.

Relies on ``manifest.json`` being trusted: every other file is believed only as far as its hash stands there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deps.ground.errors import BundleError
from deps.ground.files import sha256_of, write_json
from deps.serve.records import plain_from_record, record_from_plain

SCHEMA_VERSION = 2
READABLE = (1, 2)
"""Version 1 lacks ``raw_input`` and ``batch_ms``, and nothing else; both may be left out, so it is read as it is."""

MANIFEST_NAME = "manifest.json"
REMAKE = "make the bundle again with deps-extract"

Precision = Literal["fp32", "fp16", "trt-int8", "cpu-int8"]
Backend = Literal["onnxruntime", "tensorrt"]
TensorRTFlavour = Literal["tensorrt", "tensorrt_rtx"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PATH_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _check_name(key: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BundleError(f"{key} is {name!r}; expected letters, digits, '.', '_' and '-': it stands in addresses")


def _check_file(path: str, sha256: str, size_bytes: int) -> None:
    """Check what can be known of a file without looking at it."""
    if not path or not all(_PATH_PART.fullmatch(part) for part in path.split("/")):
        raise BundleError(f"path is {path!r}; expected a relative path inside the bundle, e.g. 'models/a/fp32.onnx'")
    if not _SHA256.fullmatch(sha256):
        raise BundleError(f"sha256 is {sha256!r}; expected 64 hexadecimal digits in lower case")
    if size_bytes < 1:
        raise BundleError(f"size_bytes is {size_bytes}; expected at least 1")


def _check_at_least(key: str, value: float | None, least: float) -> None:
    if value is not None and value < least:
        raise BundleError(f"{key} is {value}; expected at least {least:g}")


def _check_fraction(key: str, value: float | None) -> None:
    if value is not None and not 0 <= value <= 1:
        raise BundleError(f"{key} is {value}; expected a fraction from 0 to 1")


def _check_unique(key: str, values: list[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise BundleError(f"{key} names {value!r} twice; expected each once")


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """What the model takes, and how a picture becomes it: (pixel / 255 - mean) / std, channels first."""

    shape: tuple[int, int, int]
    """(C, H, W) of one image; the batch comes before it."""

    color: Literal["L", "RGB"]
    """Grey or colour, as Pillow names them; a picture is converted first."""

    mean: tuple[float, ...]
    """Per channel, of pixels scaled to 0..1."""

    std: tuple[float, ...]
    """Per channel, of pixels scaled to 0..1."""

    resize: int | None = None
    """Pixels of the shorter side before the crop; None resizes to (H, W) exactly, whatever the proportions."""

    crop: int | None = None
    """Pixels of the central square that is kept, equal to H and W; None exactly when ``resize`` is None."""

    name: str = "input"
    """The graph's input."""

    datatype: Literal["FP32"] = "FP32"
    """As the Open Inference Protocol names it."""

    interpolation: Literal["bilinear"] = "bilinear"
    """How pixels are weighted when resizing; antialiased."""

    def __post_init__(self) -> None:
        channels, height, width = self.shape
        if min(self.shape) < 1:
            raise BundleError(f"shape is {list(self.shape)}; expected three positive numbers: channels, height, width")
        expected = {"L": 1, "RGB": 3}[self.color]
        if channels != expected:
            raise BundleError(f"shape is {list(self.shape)}; expected {expected} channels for color {self.color!r}")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise BundleError(f"{key} is {list(values)}; expected {channels} values, one a channel")
        if min(self.std) <= 0:
            raise BundleError(f"std is {list(self.std)}; expected positive numbers")
        if (self.resize is None) != (self.crop is None):
            raise BundleError(f"crop is {self.crop} and resize is {self.resize}; expected both, or neither")
        if self.crop is not None and not self.crop == height == width:
            raise BundleError(f"crop is {self.crop}; expected the model's height and width, {height} x {width}")
        if self.resize is not None and self.crop is not None and self.resize < self.crop:
            raise BundleError(f"resize is {self.resize}; expected at least the crop, {self.crop}")
        _check_name("name", self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputSpec:
    """What the model gives: one row of logits an image."""

    classes: int
    """Number of logits."""

    name: str = "logits"
    """The graph's output."""

    datatype: Literal["FP32"] = "FP32"
    """As the Open Inference Protocol names it."""

    def __post_init__(self) -> None:
        _check_at_least("classes", self.classes, 2)
        _check_name("name", self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchProfile:
    """The batch sizes that a TensorRT engine accepts, and the one it is tuned for."""

    min: int = 1
    """Smallest batch."""

    opt: int = 1
    """The batch the kernels are chosen for."""

    max: int = 8
    """Largest batch; the engine's memory grows with it."""

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise BundleError(f"min, opt, max are {self.min}, {self.opt}, {self.max}; expected 1 <= min <= opt <= max")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFile:
    """One ONNX file of one subnet, with what was measured of it before it entered the bundle."""

    precision: Precision
    """``trt-int8`` and ``cpu-int8`` are quantised differently, and each is slow or wrong on the other's backend."""

    path: str
    """Inside the bundle, e.g. ``models/<subnet>/fp32.onnx``."""

    sha256: str
    """64 hexadecimal digits."""

    size_bytes: int
    """Length of the file."""

    backends: tuple[Backend, ...]
    """What may run this file."""

    top1: float | None = None
    """Fraction of test images classified rightly; None when not measured."""

    top1_validation: float | None = None
    """The same on the images that guided the search."""

    max_abs_error: float | None = None
    """Largest difference of any logit from the torch subnet's, on the images it was checked with."""

    measured_ms: dict[str, float] = field(default_factory=dict)
    """Median milliseconds for one image, by target on which this very file was timed."""

    batch_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    """Median milliseconds for a whole batch, by target and number of images, as ``deps-serve bench`` writes it."""

    def __post_init__(self) -> None:
        _check_file(self.path, self.sha256, self.size_bytes)
        if not self.backends:
            raise BundleError("backends is empty; expected at least one of 'onnxruntime', 'tensorrt'")
        _check_unique("backends", list(self.backends))
        _check_fraction("top1", self.top1)
        _check_fraction("top1_validation", self.top1_validation)
        _check_at_least("max_abs_error", self.max_abs_error, 0)
        for target, milliseconds in self.measured_ms.items():
            _check_at_least(f"measured_ms.{target}", milliseconds, 0)
        for target, by_batch in self.batch_ms.items():
            for images, milliseconds in by_batch.items():
                if not images.isdecimal() or int(images) < 1:
                    raise BundleError(f"batch_ms.{target} names the batch {images!r}; expected a number of images")
                _check_at_least(f"batch_ms.{target}.{images}", milliseconds, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class RawInput:
    """A small graph that takes pixels as they are, UINT8 from 0 to 255, and gives what every model of the bundle takes.

    Put in front of a model, it quarters what a client sends; the weights are not stored twice.
    """

    path: str
    """Inside the bundle, ``models/uint8.onnx``."""

    sha256: str
    """64 hexadecimal digits."""

    size_bytes: int
    """Length of the file."""

    name: str = "image"
    """The graph's input, shape (N, C, H, W); its output bears the name of the models' input."""

    datatype: Literal["UINT8"] = "UINT8"
    """As the Open Inference Protocol names it."""

    def __post_init__(self) -> None:
        _check_file(self.path, self.sha256, self.size_bytes)
        _check_name("name", self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """What one image costs on one target: foretold by a latency table, measured, or both."""

    predicted_ms: float | None = None
    """The latency table's prediction, milliseconds at batch 1."""

    error_ms: float | None = None
    """The table's own error on subnets it did not see."""

    measured_ms: float | None = None
    """Median of the real subnet on the target."""

    def __post_init__(self) -> None:
        for key in ("predicted_ms", "error_ms", "measured_ms"):
            _check_at_least(key, getattr(self, key), 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class SubnetEntry:
    """One subnet of the bundle, with its costs and its files."""

    name: str
    """Unique in the bundle; stands in paths and answers."""

    arch: dict[str, Any]
    """The architecture as ``ArchSpec`` writes it; a device needs no more than to show it."""

    flops: int
    """Multiply-adds for one image, convolutions and linear layers."""

    params: int
    """Number of parameters."""

    activation_bytes: int
    """Peak of the activations for one image, fp32."""

    weight_bytes: int
    """Bytes of the weights, fp32."""

    models: tuple[ModelFile, ...]
    """One file a precision."""

    latency: dict[str, Latency] = field(default_factory=dict)
    """By target."""

    def __post_init__(self) -> None:
        _check_name("name", self.name)
        for key in ("flops", "params", "activation_bytes", "weight_bytes"):
            _check_at_least(key, getattr(self, key), 1)
        if not self.models:
            raise BundleError("models is empty; expected at least one file")
        _check_unique("models", [model.precision for model in self.models])

    def model(self, precision: str) -> ModelFile | None:
        """Return the file of one precision, or None."""
        return next((model for model in self.models if model.precision == precision), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFile:
    """A compiled TensorRT engine; loading one runs native code, so it must be vouched for by its hash."""

    path: str
    """Inside the bundle, e.g. ``engines/<subnet>-fp16-<key>.engine``."""

    sha256: str
    """64 hexadecimal digits."""

    size_bytes: int
    """Length of the file."""

    built_from: str
    """SHA-256 of the ONNX file it was compiled from."""

    key: str
    """Hash of everything that decided the build: ONNX, profile, flags, versions, device."""

    subnet: str
    """Name of the subnet."""

    precision: Precision
    """Precision of the ONNX file."""

    runtime: TensorRTFlavour
    """The package that built it and must run it."""

    runtime_version: str
    """Version of that package; another one refuses the engine."""

    profile: BatchProfile
    """Batch sizes it accepts."""

    compute_capabilities: tuple[str, ...] = ()
    """GPUs it was built for, e.g. ``("8.7",)``; empty for what the runtime covers by default (RTX: 8.0 and later)."""

    def __post_init__(self) -> None:
        _check_file(self.path, self.sha256, self.size_bytes)
        for name in ("built_from", "key"):
            if not _SHA256.fullmatch(getattr(self, name)):
                raise BundleError(f"{name} is {getattr(self, name)!r}; expected 64 hexadecimal digits in lower case")


BundleFile = ModelFile | EngineFile | RawInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All that a server must know of a bundle; ``manifest.json`` as a value."""

    name: str
    """The model's name in the protocol."""

    target: str
    """The target it was made for, e.g. ``"jetson-orin"``."""

    input: InputSpec
    """What the model takes."""

    output: OutputSpec
    """What the model gives."""

    labels: tuple[str, ...]
    """One a class, in the order of the logits."""

    subnets: tuple[SubnetEntry, ...]
    """One subnet, or a family of them; the first is the default."""

    engines: tuple[EngineFile, ...] = ()
    """Engines that came with the bundle; those built on the device stand beside it, see ``build.py``."""

    raw_input: RawInput | None = None
    """What lets every model take raw pixels; None when the bundle was written without it."""

    search: dict[str, Any] = field(default_factory=dict)
    """Budget, objective and outcome of the search, as extraction tells it."""

    provenance: dict[str, Any] = field(default_factory=dict)
    """Commit, versions, machine, time."""

    notes: tuple[str, ...] = ()
    """What a person should know, e.g. ``"trt-int8 left out: loses 3.1 points"``."""

    task: Literal["classification"] = "classification"
    """What the logits mean."""

    schema_version: int = SCHEMA_VERSION
    """Of this layout."""

    def __post_init__(self) -> None:
        _check_name("name", self.name)
        if self.schema_version not in READABLE:
            raise BundleError(
                f"schema_version is {self.schema_version}; this deps reads {' and '.join(map(str, READABLE))} "
                "(install the deps that wrote it, or a newer one)"
            )
        if len(self.labels) != self.output.classes:
            raise BundleError(f"labels has {len(self.labels)} entries; expected one a class, {self.output.classes}")
        if not self.subnets:
            raise BundleError("subnets is empty; expected at least one")
        names = [subnet.name for subnet in self.subnets]
        _check_unique("subnets", names)
        _check_unique("paths", [file.path for file in self.files()])
        for engine in self.engines:
            if engine.subnet not in names:
                raise BundleError(f"engines names the subnet {engine.subnet!r}; expected one of {', '.join(names)}")

    @property
    def default_subnet(self) -> SubnetEntry:
        """The subnet that answers when none is asked for."""
        return self.subnets[0]

    def subnet(self, name: str) -> SubnetEntry:
        """Return the subnet of that name.

        Raises:
            BundleError: there is none; the message lists the known.
        """
        for subnet in self.subnets:
            if subnet.name == name:
                return subnet
        known = ", ".join(subnet.name for subnet in self.subnets)
        raise BundleError(f"the bundle has no subnet {name!r}; expected one of {known}")

    def files(self) -> list[BundleFile]:
        """Return every file that the manifest vouches for."""
        files: list[BundleFile] = [model for subnet in self.subnets for model in subnet.models]
        files.extend(self.engines)
        if self.raw_input is not None:
            files.append(self.raw_input)
        return files

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON-ready objects, lists, text and numbers."""
        plain: dict[str, Any] = plain_from_record(self)
        return {"schema_version": plain.pop("schema_version"), **plain}

    @classmethod
    def from_dict(cls, value: object, *, source: str = "") -> Manifest:
        """Return the manifest that a JSON object describes.

        Args:
            value: what the JSON parser returned.
            source: where it came from, for the message.

        Raises:
            BundleError: an unknown or missing key, a wrong type, or a value out of range; the message names the key.
        """
        return record_from_plain(cls, value, error=BundleError, source=source, remedy=REMAKE)


def model_file(
    folder: Path | str,
    path: str,
    *,
    precision: Precision,
    backends: tuple[Backend, ...],
    top1: float | None = None,
    top1_validation: float | None = None,
    max_abs_error: float | None = None,
    measured_ms: dict[str, float] | None = None,
) -> ModelFile:
    """Return the entry of a file that already lies at ``folder / path``, with its hash and size taken from it."""
    file = Path(folder) / path
    return ModelFile(
        precision=precision,
        path=path,
        sha256=sha256_of(file),
        size_bytes=file.stat().st_size,
        backends=backends,
        top1=top1,
        top1_validation=top1_validation,
        max_abs_error=max_abs_error,
        measured_ms=dict(measured_ms or {}),
    )


def write_manifest(folder: Path | str, manifest: Manifest) -> None:
    """Write ``manifest.json``, whole or not at all, after reading it back as a device would.

    Raises:
        BundleError: a value that a reader would refuse.
    """
    plain = manifest.to_dict()
    Manifest.from_dict(plain, source=MANIFEST_NAME)
    write_json(Path(folder) / MANIFEST_NAME, plain)
