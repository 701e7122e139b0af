"""A kit holds real nets that compute, in a folder small enough to be copied to a device."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from deps.ground.errors import FileError, LatencyTableError
from deps.profile.kit import MANIFEST, NOISE, NOISE_STD, Kit, noise_weights, read_kit, write_kit
from deps.supernet import ArchSpec, get_space
from deps.supernet.onnx_graph import onnx_from_subnet
from deps.supernet.plan import parameter_shapes, plan


@pytest.fixture
def own_kit(kit: Kit, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(kit.folder, tmp_path / "kit"))


@pytest.mark.parametrize("name", ["digits", "ofa-mbv3-w1.2", "ofa-proxyless-w1.3", "ofa-resnet50"])
def test_no_map_of_a_net_vanishes_or_overflows(name: str) -> None:
    """Infinite and denormal numbers run at another speed than a trained net's."""
    space = get_space(name)
    subnet = plan(space, ArchSpec.largest(space, space.resolutions[0]))
    rng = np.random.default_rng(0)
    noise = NOISE_STD * rng.standard_normal(max(map(math.prod, parameter_shapes(subnet).values())), np.float32)
    model = onnx_from_subnet(subnet, noise_weights(subnet, noise), eps=0.0)
    model.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(node.output[0]) for node in model.graph.node[:-1]
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = rng.standard_normal((1, space.in_channels, subnet.resolution, subnet.resolution), np.float32)
    for value in session.run(None, {"input": x}):
        assert np.isfinite(value).all()
        size = np.abs(value[value != 0])
        assert 1e-3 < size.max() < 1e6
        assert (size > np.finfo(np.float32).tiny).all()


def test_nets_are_the_graphs_that_are_shipped(kit: Kit) -> None:
    """What is timed must be what will run: the same nodes, names and shapes, only with noise as weights."""
    for net, arch in list(kit.at(8))[::9]:
        subnet = plan(kit.space, arch)
        weights = {name: np.ones(shape, np.float32) for name, shape in parameter_shapes(subnet).items()}
        shipped = onnx_from_subnet(subnet, weights, eps=kit.space.norm_eps).graph
        written = onnx.load(kit.folder / net.file, load_external_data=False).graph
        assert list(written.node) == list(shipped.node)
        assert [(t.name, list(t.dims)) for t in written.initializer] == [
            (t.name, list(t.dims)) for t in shipped.initializer
        ]


def test_weights_are_stored_once(kit: Kit) -> None:
    """Fifty nets of 20 MB each would be slow to write and to copy to a board."""
    files = sorted(kit.folder.iterdir(), key=lambda path: path.stat().st_size)
    assert files[-1].name == NOISE
    assert all(path.stat().st_size < 64_000 for path in files[:-1])


def test_every_role_is_filled_and_no_anchor_is_held_out(kit: Kit) -> None:
    """The roles are what makes the stated error honest."""
    roles: dict[str, list[object]] = {"designed": [], "anchor": [], "held_out": []}
    for net, arch in kit.at(8):
        roles[net.role].append(arch)
    assert len(roles["designed"]) == 6
    assert len(roles["anchor"]) == 16
    assert len(roles["held_out"]) == 24
    assert not set(roles["anchor"]) & set(roles["held_out"])


def test_kit_reads_back_as_it_was_written(kit: Kit) -> None:
    """The device sees what the workstation chose."""
    again = read_kit(kit.folder)
    assert again == kit
    assert again.resolutions == (8,)
    assert again.space == get_space("digits")


def test_same_seed_writes_the_same_bytes(kit: Kit, tmp_path: Path) -> None:
    """Two devices are compared on the same nets."""
    again = write_kit(tmp_path / "again", get_space("digits"), [8], seed=kit.manifest.seed)
    for path in kit.folder.iterdir():
        assert path.read_bytes() == (again.folder / path.name).read_bytes(), path.name


def test_existing_folder_is_kept(own_kit: Path) -> None:
    """A kit that was measured halfway must not vanish."""
    before = {path.name: path.stat().st_mtime_ns for path in own_kit.iterdir()}
    with pytest.raises(FileError, match="exists already"):
        write_kit(own_kit, get_space("digits"), [8])
    assert {path.name: path.stat().st_mtime_ns for path in own_kit.iterdir()} == before


def test_unknown_resolution_is_refused(tmp_path: Path) -> None:
    """The message names the choices, and nothing is written."""
    with pytest.raises(LatencyTableError, match="resolution is 9; choices in digits: 8"):
        write_kit(tmp_path / "kit", get_space("digits"), [9])
    assert list(tmp_path.iterdir()) == []


def test_damaged_kits_are_refused_by_what_is_wrong(own_kit: Path) -> None:
    """A copy to a board may stop halfway."""
    manifest = own_kit / MANIFEST
    good = json.loads(manifest.read_text())

    def expect(error: type[Exception], match: str, **changes: object) -> None:
        manifest.write_text(json.dumps({**good, **changes}))
        with pytest.raises(error, match=match):
            read_kit(own_kit)

    expect(FileError, "schema_version 7", schema_version=7)
    expect(LatencyTableError, "names no nets", nets=[])
    expect(LatencyTableError, r"nets\[0\]\.role is 'spare'", nets=[{**good["nets"][0], "role": "spare"}])
    expect(LatencyTableError, "is damaged: an architecture has the fields", nets=[{**good["nets"][0], "arch": {}}])
    expect(LatencyTableError, "not in the folder", nets=[{**good["nets"][0], "file": "../../etc/passwd"}])
    manifest.write_text(json.dumps(good))
    (own_kit / good["nets"][3]["file"]).unlink()
    with pytest.raises(LatencyTableError, match="not in the folder; write the kit again"):
        read_kit(own_kit)
    with pytest.raises(FileError, match="does not exist"):
        read_kit(own_kit / "elsewhere")
