"""The manifest is what a device believes: it must come back as written, and say plainly when it cannot be believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.ground.errors import BundleError
from deps.serve.bundle import Bundle
from deps.serve.manifest import (
    BatchProfile,
    EngineFile,
    InputSpec,
    Latency,
    Manifest,
    ModelFile,
    OutputSpec,
    RawInput,
    SubnetEntry,
    write_manifest,
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
SIZES = st.integers(1, 2**40)
FRACTIONS = st.none() | st.floats(0, 1)
BATCHES = st.integers(1, 64).map(str)
MILLISECONDS = st.floats(0, 1e6)
FACTS = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)


@st.composite
def input_specs(draw: st.DrawFn) -> InputSpec:
    color = draw(st.sampled_from(["L", "RGB"]))
    channels = 1 if color == "L" else 3
    side = draw(st.integers(1, 512))
    resize = draw(st.none() | st.integers(side, 600))
    return InputSpec(
        shape=(channels, side, side),
        color=color,
        mean=tuple(draw(st.lists(st.floats(-1, 1), min_size=channels, max_size=channels))),
        std=tuple(draw(st.lists(st.floats(0.01, 1), min_size=channels, max_size=channels))),
        resize=resize,
        crop=None if resize is None else side,
    )


@st.composite
def subnets(draw: st.DrawFn, name: str) -> SubnetEntry:
    precisions = draw(st.lists(st.sampled_from(["fp32", "fp16", "trt-int8", "cpu-int8"]), min_size=1, unique=True))
    models = tuple(
        ModelFile(
            precision=precision,
            path=f"models/{name}/{precision}.onnx",
            sha256=draw(HASHES),
            size_bytes=draw(SIZES),
            backends=draw(st.sampled_from([("onnxruntime",), ("tensorrt",), ("onnxruntime", "tensorrt")])),
            top1=draw(FRACTIONS),
            top1_validation=draw(FRACTIONS),
            max_abs_error=draw(st.none() | MILLISECONDS),
            measured_ms=draw(st.dictionaries(NAMES, MILLISECONDS, max_size=2)),
            batch_ms=draw(st.dictionaries(NAMES, st.dictionaries(BATCHES, MILLISECONDS, max_size=2), max_size=2)),
        )
        for precision in precisions
    )
    latencies = st.builds(Latency, predicted_ms=st.none() | MILLISECONDS, measured_ms=st.none() | MILLISECONDS)
    return SubnetEntry(
        name=name,
        arch=draw(FACTS),
        flops=draw(SIZES),
        params=draw(SIZES),
        activation_bytes=draw(SIZES),
        weight_bytes=draw(SIZES),
        models=models,
        latency=draw(st.dictionaries(NAMES, latencies, max_size=2)),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    classes = draw(st.integers(2, 5))
    engines = tuple(
        EngineFile(
            path=f"engines/{index}.engine",
            sha256=draw(HASHES),
            size_bytes=draw(SIZES),
            built_from=draw(HASHES),
            key=draw(HASHES),
            subnet=draw(st.sampled_from(names)),
            precision="fp16",
            runtime=draw(st.sampled_from(["tensorrt", "tensorrt_rtx"])),
            runtime_version="1.7.1.116",
            profile=BatchProfile(min=1, opt=draw(st.integers(1, 4)), max=draw(st.integers(4, 8))),
        )
        for index in range(draw(st.integers(0, 2)))
    )
    return Manifest(
        name=draw(NAMES),
        target=draw(NAMES),
        input=draw(input_specs()),
        output=OutputSpec(classes=classes),
        labels=tuple(draw(st.lists(st.text(max_size=8), min_size=classes, max_size=classes))),
        subnets=tuple(draw(subnets(name)) for name in names),
        engines=engines,
        raw_input=draw(
            st.none() | st.builds(RawInput, path=st.just("models/uint8.onnx"), sha256=HASHES, size_bytes=SIZES)
        ),
        search=draw(FACTS),
        provenance=draw(FACTS),
        notes=tuple(draw(st.lists(st.text(max_size=20), max_size=2))),
    )


@settings(max_examples=40)
@given(manifest=manifests())
def test_manifest_comes_back_from_json_as_it_was_written(manifest: Manifest):
    """A device reads what the workstation wrote: JSON must lose nothing, whatever the manifest holds."""
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict(), allow_nan=False))) == manifest


def _at(plain: dict[str, Any], path: str) -> tuple[Any, Any]:
    """Return the container and the last key of a path such as ``subnets/0/name``."""
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    for part in parents:
        plain = plain[part]
    return plain, last


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("schema_version", 3, "schema_version is 3"),
        ("name", "a/b", "name is 'a/b'"),
        ("name", 7, "name is 7; expected text"),
        ("task", "detection", "task is 'detection'"),
        ("input/shape", [1, 8], r"input.shape is \[1, 8\]; expected a list of 3"),
        ("input/shape", [1, 8, True], r"input.shape\[2\] is True"),
        ("input/shape", [3, 8, 8], "expected 1 channels"),
        ("input/color", "CMYK", "input.color is 'CMYK'"),
        ("input/mean", [float("nan")], r"input.mean\[0\] is nan; expected a finite number"),
        ("input/std", [0.0], "input.std is"),
        ("input/std", [1.0, 1.0], "expected 1 values"),
        ("input/crop", 8, "expected both, or neither"),
        ("output/classes", 1, "output.classes is 1"),
        ("output/classes", 11, "labels has 10 entries"),
        ("subnets", [], "subnets is empty"),
        ("subnets/1/name", "large", "subnets names 'large' twice"),
        ("subnets/0/flops", 1.5, r"subnets\[0\].flops is 1.5; expected a whole number"),
        ("subnets/0/flops", 0, r"subnets\[0\].flops is 0"),
        ("subnets/0/arch", {"x": float("inf")}, r"subnets\[0\].arch.x is inf"),
        ("subnets/0/models", [], r"subnets\[0\].models is empty"),
        ("subnets/0/models/0/sha256", "F" * 64, r"subnets\[0\].models\[0\].sha256"),
        ("subnets/0/models/0/sha256", "ab", "expected 64 hexadecimal digits"),
        ("subnets/0/models/0/size_bytes", 0, "size_bytes is 0"),
        ("subnets/0/models/0/path", "/etc/passwd", "path is '/etc/passwd'"),
        ("subnets/0/models/0/path", "models/../../x", "expected a relative path inside the bundle"),
        ("subnets/0/models/0/path", "models\\x", "expected a relative path inside the bundle"),
        ("subnets/0/models/0/path", "models/.x.12.tmp", "expected a relative path inside the bundle"),
        ("subnets/0/models/0/path", "models/small/fp32.onnx", "paths names 'models/small/fp32.onnx' twice"),
        ("subnets/0/models/0/precision", "fp8", "precision is 'fp8'; expected one of 'fp32'"),
        ("subnets/0/models/0/backends", [], "backends is empty"),
        ("subnets/0/models/0/top1", 97.5, "top1 is 97.5; expected a fraction"),
        ("subnets/0/models/0/measured_ms", {"cpu": -1}, "measured_ms.cpu is -1"),
        ("subnets/0/models/0/batch_ms", {"cpu": {"4": -1}}, "batch_ms.cpu.4 is -1"),
        ("subnets/0/models/0/batch_ms", {"cpu": {"0": 1}}, "batch_ms.cpu names the batch '0'; expected a number of"),
        ("raw_input", {"path": "../x", "sha256": "0" * 64, "size_bytes": 1}, "raw_input.*path is '../x'"),
        ("subnets/0/latency", {"cpu": {"predicted_ms": "5ms"}}, "latency.cpu.predicted_ms is '5ms'; expected a number"),
        ("surprise", 1, "surprise is not a known key"),
        ("subnets/0/models/0/hash", "", r"subnets\[0\].models\[0\].hash is not a known key"),
    ],
)
def test_bad_value_is_refused_by_its_name(bundle: Bundle, path: str, value: object, named: str):
    """Whoever edits a manifest by hand must learn which key is wrong and what belongs there."""
    plain = bundle.manifest.to_dict()
    container, key = _at(plain, path)
    container[key] = value
    with pytest.raises(BundleError, match=named) as caught:
        Manifest.from_dict(plain, source="manifest.json")
    assert str(caught.value).startswith("manifest.json: ")
    assert str(caught.value).endswith("make the bundle again with deps-extract")


def test_bundle_of_the_first_version_is_still_read(bundle: Bundle):
    """Version 2 only adds keys that may be left out; what was shipped before keeps working."""
    plain = bundle.manifest.to_dict()
    del plain["raw_input"]
    for subnet in plain["subnets"]:
        for model in subnet["models"]:
            del model["batch_ms"]
    plain["schema_version"] = 1
    assert Manifest.from_dict(plain).subnets == bundle.manifest.subnets


@pytest.mark.parametrize("path", ["name", "labels", "input/mean", "subnets/0/arch", "subnets/1/models/0/sha256"])
def test_missing_key_is_named(bundle: Bundle, path: str):
    """Nothing that was measured is silently taken to be a default."""
    plain = bundle.manifest.to_dict()
    container, key = _at(plain, path)
    del container[key]
    with pytest.raises(BundleError, match=rf"{key} is missing"):
        Manifest.from_dict(plain)


def test_deeply_nested_facts_are_refused(bundle: Bundle):
    """Free JSON must not carry a bomb for the next reader's recursion."""
    plain = bundle.manifest.to_dict()
    deep: dict[str, Any] = {}
    plain["search"] = deep
    for _ in range(500):
        deep["x"] = {}
        deep = deep["x"]
    with pytest.raises(BundleError, match="nested more than 64 deep"):
        Manifest.from_dict(plain)


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_manifest_must_be_an_object(value: object):
    """A list or a number is some other file."""
    with pytest.raises(BundleError, match="expected an object"):
        Manifest.from_dict(value)


def test_writer_refuses_what_a_reader_would_refuse(bundle: Bundle, tmp_path: Path):
    """A bundle that no device can open must fail on the workstation, where it can be mended."""
    bundle.manifest.search["loss"] = float("nan")
    with pytest.raises(BundleError, match=r"search.loss is nan"):
        write_manifest(tmp_path, bundle.manifest)
    assert not (tmp_path / "manifest.json").exists()


def test_unknown_subnet_lists_the_known(make_bundle: Callable[..., Path], bundle: Bundle):
    """An unknown name in an option is answered by the names there are."""
    assert bundle.manifest.subnet("small").name == "small"
    with pytest.raises(BundleError, match="expected one of large, small"):
        bundle.manifest.subnet("medium")
