"""A bundle is whole or absent, holds what its target needs, and never takes the place of something else."""

from __future__ import annotations

import resource
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from deps.extract.bundle import Contents, Costs, Member, check_place, input_spec, write_bundle
from deps.ground.console import Story
from deps.ground.errors import BundleError, DataError, FileError
from deps.profile.flops import count
from deps.serve.bundle import read_bundle
from deps.serve.engines.compose import with_raw_input
from deps.serve.engines.header import read_header
from deps.serve.engines.runtimes import load_runtime
from deps.serve.targets import get_target

QUIET = Story(quiet=True)


@pytest.fixture
def contents(digits, smallest, exports, run) -> Contents:
    """A bundle of the smallest subnet, for the CPU."""
    return Contents(
        target=get_target("cpu"),
        space=digits,
        members=(
            Member(
                name="digits-smallest",
                arch=smallest,
                costs=Costs(**count(digits, smallest).to_dict()),
                exports=exports,
                latency={},
            ),
        ),
        data=run.data(),
        search={"budget": {}},
        provenance={"time": "now"},
        extras={"report/pareto.png": b"a picture"},
    )


def with_member(contents: Contents, **changes) -> Contents:
    """The same bundle with its subnet altered."""
    return replace(contents, members=(replace(contents.members[0], **changes),))


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir())


def test_a_bundle_is_what_the_server_reads(contents, tmp_path):
    """Every file that was written is vouched for, and nothing lies beside it."""
    manifest = write_bundle(tmp_path / "bundle", contents, QUIET)
    assert read_bundle(tmp_path / "bundle").manifest == manifest
    assert names(tmp_path) == ["bundle"]
    assert names(tmp_path / "bundle") == ["README.md", "manifest.json", "models", "report"]
    assert "pip install deps-ofa" in (tmp_path / "bundle" / "README.md").read_text()
    for model, export in zip(manifest.default_subnet.models, contents.members[0].exports.entries, strict=True):
        assert (tmp_path / "bundle" / model.path).read_bytes() == export.content
        assert model.top1 == export.test.top1


def test_what_was_left_out_is_not_in_the_bundle_but_in_its_notes(contents, tmp_path):
    """A device must not be given a file that failed its check, and a person must learn why it is missing."""
    entries = tuple(
        replace(entry, why_left_out="loses 3 points") if entry.precision == "trt-int8" else entry
        for entry in contents.members[0].exports.entries
    )
    altered = with_member(contents, exports=replace(contents.members[0].exports, entries=entries))
    manifest = write_bundle(tmp_path / "bundle", altered, QUIET)
    assert [model.precision for model in manifest.default_subnet.models] == ["fp32", "fp16", "cpu-int8"]
    assert manifest.notes == ("trt-int8 left out: loses 3 points",)
    assert "loses 3 points" in (tmp_path / "bundle" / "README.md").read_text()


def test_a_family_is_one_bundle_whose_first_subnet_is_the_default(contents, digits, tmp_path):
    """A server with a deadline chooses among the subnets of one bundle; whoever asks for nothing gets the first."""
    small = contents.members[0]
    family = replace(contents, members=(replace(small, name="large"), small))
    manifest = write_bundle(tmp_path / "bundle", family, QUIET)
    assert [entry.name for entry in read_bundle(tmp_path / "bundle").manifest.subnets] == ["large", "digits-smallest"]
    assert manifest.default_subnet.name == "large"
    page = (tmp_path / "bundle" / "README.md").read_text()
    assert "2 subnets, the most accurate `large`" in page
    assert "models/digits-smallest/fp32.onnx" in page
    wider = replace(small, name="wide", arch=replace(small.arch, resolution=16))
    for members in ((small, wider), ()):
        with pytest.raises(BundleError, match="one size"):
            replace(contents, members=members)


def test_every_model_of_a_bundle_takes_raw_pixels(contents, tmp_path):
    """One small graph for all of them; with it in front, a model takes bytes of the manifest's shape."""
    manifest = write_bundle(tmp_path / "bundle", contents, QUIET)
    bundle, raw = read_bundle(tmp_path / "bundle"), manifest.raw_input
    assert (raw.path, raw.name, raw.datatype) == ("models/uint8.onnx", "image", "UINT8")
    assert raw.size_bytes < 2000
    for model in manifest.default_subnet.models:
        joined = onnx.load_from_string(with_raw_input(bundle.read_bytes(model), bundle.read_bytes(raw)))
        (taken,) = joined.graph.input
        assert taken.name == raw.name
        assert [size.dim_value for size in taken.type.tensor_type.shape.dim[1:]] == list(manifest.input.shape)


@pytest.mark.tensorrt
def test_an_rtx_bundle_holds_a_real_engine(contents, tmp_path):
    """Built here, without a GPU; its header is TensorRT's own."""
    manifest = write_bundle(tmp_path / "bundle", replace(contents, target=get_target("rtx")), QUIET)
    (record,) = manifest.engines
    engine = (tmp_path / "bundle" / record.path).read_bytes()
    header = read_header(engine)
    assert header.flavour == record.runtime == "tensorrt_rtx"
    assert header.size_bytes == len(engine) == record.size_bytes
    assert record.precision == "fp16"
    assert record.built_from == manifest.default_subnet.model("fp16").sha256
    assert "tensorrt-rtx" in (tmp_path / "bundle" / "README.md").read_text()


def test_without_tensorrt_an_rtx_bundle_says_how_to_build_the_engine(contents, tmp_path, monkeypatch, capsys):
    """The ONNX files are worth having by themselves."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)  # as if it were not installed
    load_runtime.cache_clear()
    try:
        manifest = write_bundle(tmp_path / "bundle", replace(contents, target=get_target("rtx")), QUIET)
    finally:
        load_runtime.cache_clear()
    assert manifest.engines == ()
    assert "pip install 'deps-ofa[tensorrt-rtx]'" in capsys.readouterr().err
    assert "pip install 'deps-ofa[tensorrt-rtx]'" in manifest.notes[0]
    assert "deps-serve build ." in (tmp_path / "bundle" / "README.md").read_text()


def test_a_jetson_bundle_tells_the_device_what_to_do(contents, tmp_path):
    """Engines run only where they were built, so none is in it."""
    manifest = write_bundle(tmp_path / "bundle", replace(contents, target=get_target("jetson")), QUIET)
    assert manifest.target == "jetson-orin"
    assert manifest.engines == ()
    page = (tmp_path / "bundle" / "README.md").read_text()
    for command in ("--system-site-packages", "pip install deps-ofa", "deps-serve build .", "deps-serve ."):
        assert command in page


def test_an_older_bundle_is_replaced_by_the_new_one(contents, tmp_path, capsys):
    """A new search for the same budget is the common case; that it replaced something is said."""
    out = tmp_path / "bundle"
    write_bundle(out, contents, QUIET)
    newer = replace(with_member(contents, name="digits-other"), extras={})
    write_bundle(out, newer, Story())
    assert read_bundle(out).manifest.default_subnet.name == "digits-other"
    assert names(out) == ["README.md", "manifest.json", "models"]
    assert names(tmp_path) == ["bundle"]
    assert "replaced the older bundle" in capsys.readouterr().err


def test_an_empty_folder_may_become_a_bundle(contents, tmp_path):
    """It holds nothing that could be lost."""
    (tmp_path / "bundle").mkdir()
    assert check_place(tmp_path / "bundle") is False
    write_bundle(tmp_path / "bundle", contents, QUIET)
    assert read_bundle(tmp_path / "bundle")


def foreign_folder(out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")


def foreign_file(out: Path) -> None:
    out.write_text("years of work")


def lost_link(out: Path) -> None:
    out.symlink_to(out.with_name("nowhere"))


@pytest.mark.parametrize("occupy", [foreign_folder, foreign_file, lost_link])
def test_what_is_not_a_bundle_is_left_alone(contents, tmp_path, occupy):
    """A wrong --out must not cost anybody's work."""
    out = tmp_path / "bundle"
    occupy(out)
    before = names(tmp_path)
    with pytest.raises(BundleError, match=r"left alone.*--out"):
        write_bundle(out, contents, QUIET)
    assert names(tmp_path) == before
    if out.is_dir():
        assert (out / "thesis.tex").read_text() == "years of work"


def test_a_half_written_bundle_is_told_from_a_whole_one(contents, tmp_path):
    """It may hold the only copy of something; the user is asked to remove it."""
    out = tmp_path / "bundle"
    manifest = write_bundle(out, contents, QUIET)
    model = out / manifest.default_subnet.models[0].path
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"not a whole bundle.*cut short"):
        check_place(out)


def test_a_disk_that_fills_leaves_the_older_bundle(contents, tmp_path):
    """A limit on the size of files stands for a full disk: the same write fails, at the same place."""
    out = tmp_path / "bundle"
    before = write_bundle(out, contents, QUIET)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(FileError, match=r"cannot write .*bundle"):
            write_bundle(out, with_member(contents, name="digits-other"), QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_bundle(out).manifest == before
    assert names(tmp_path) == ["bundle"]


def test_the_input_says_how_a_picture_is_cut(digits, run):
    """The margin around the crop keeps its share when a subnet looks at smaller images."""
    data, space = run.data(), digits
    plain = input_spec(data, space, 8)
    assert (plain.shape, plain.resize, plain.crop) == ((1, 8, 8), None, None)
    preprocessing = replace(data.preprocessing, resize=256, crop=224)
    cut = replace(data, train=replace(data.train, preprocessing=preprocessing))
    assert (input_spec(cut, space, 112).resize, input_spec(cut, space, 112).crop) == (128, 112)
    bicubic = replace(data, train=replace(data.train, preprocessing=replace(preprocessing, interpolation="bicubic")))
    with pytest.raises(DataError, match="bilinear"):
        input_spec(bicubic, space, 112)
