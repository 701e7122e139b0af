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
from deps.profile.kit import MANIFEST, SLACK, Kit, read_kit, write_kit
from deps.profile.precisions import NOISE_STD, WEIGHTS, shared_values
from deps.supernet import ArchSpec, get_space
from deps.supernet.onnx_graph import onnx_from_subnet
from deps.supernet.plan import parameter_shapes, plan


@pytest.fixture
def own_kit(kit: Kit, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(kit.folder, tmp_path / "kit"))


@pytest.mark.parametrize("name", ["ofa-mbv3-w1.2", "ofa-proxyless-w1.3", "ofa-resnet50"])
def test_no_map_of_a_net_vanishes_or_overflows(name: str, tmp_path: Path) -> None:
    """Infinite and denormal numbers run at another speed than a trained net's."""
    space = get_space(name)
    subnet = plan(space, ArchSpec.largest(space, space.resolutions[0]))
    rng = np.random.default_rng(0)
    size = max(map(math.prod, parameter_shapes(subnet).values())) + SLACK
    noise = NOISE_STD * rng.standard_normal(size, np.float32)
    model = onnx_from_subnet(subnet, WEIGHTS, eps=0.0)
    model.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(node.output[0]) for node in model.graph.node[:-1]
    )
    (tmp_path / WEIGHTS.file).write_bytes(shared_values(WEIGHTS.file, noise))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    x = rng.standard_normal((1, space.in_channels, subnet.resolution, subnet.resolution), np.float32)
    for value in session.run(None, {"input": x}):
        assert np.isfinite(value).all()
        size = np.abs(value[value != 0])
        assert 1e-3 < size.max() < 1e6
        assert (size > np.finfo(np.float32).tiny).all()


def test_nets_are_the_graphs_that_are_shipped(kit: Kit) -> None:
    """What is timed must be what will run: the same nodes, names and shapes, only with noise as weights."""
    for net in list(kit.at(8, "designed", "held_out"))[::9]:
        subnet = kit.plan_of(net)
        weights = {name: np.ones(shape, np.float32) for name, shape in parameter_shapes(subnet).items()}
        shipped = onnx_from_subnet(subnet, weights, eps=kit.space.norm_eps).graph
        written = onnx.load(kit.path(net, "fp32"), load_external_data=False).graph
        assert list(written.node) == list(shipped.node)
        assert [(t.name, list(t.dims)) for t in written.initializer] == [
            (t.name, list(t.dims)) for t in shipped.initializer
        ]


def test_weights_are_stored_once(kit: Kit) -> None:
    """Fifty nets of 20 MB each would be slow to write and to copy to a board."""
    for precision in kit.manifest.precisions:
        assert all(path.stat().st_size < 64_000 for path in (kit.folder / precision).glob("*.onnx"))


def test_every_role_is_filled_and_no_anchor_is_held_out(kit: Kit) -> None:
    """The roles are what makes the stated error honest."""
    roles = {role: [kit.archs[net.name] for net in kit.at(8, role)] for role in ("designed", "anchor", "held_out")}
    assert [len(nets) for nets in roles.values()] == [6, 16, 24]
    assert not set(roles["anchor"]) & set(roles["held_out"])
    blocks = [net.piece for net in kit.at(8, "block")]
    pieces = {piece.key for arch in roles["designed"] for piece in plan(kit.space, arch).pieces()}
    assert set(blocks) == pieces
    assert len(blocks) == len(pieces)


def test_probe_is_a_small_share_of_a_net(kit: Kit) -> None:
    """It runs between all others, and must cost next to nothing."""
    space = get_space("ofa-mbv3-w1.2")
    assert kit.layers(kit.probe).macs > 0  # type: ignore[union-attr]
    from deps.profile.kit import _probe

    subnet = plan(space, ArchSpec.largest(space, 224))
    assert 0.005 < _probe(subnet).macs / sum(piece.macs for piece in subnet.pieces()) < 0.03


def test_kit_reads_back_as_it_was_written(kit: Kit) -> None:
    """The device sees what the workstation chose."""
    again = read_kit(kit.folder)
    assert again == kit
    assert again.resolutions == (8,)
    assert again.space == get_space("digits")


def test_same_seed_writes_the_same_bytes(kit: Kit, tmp_path: Path) -> None:
    """Two devices are compared on the same nets."""
    first, second = (
        write_kit(tmp_path / str(number), get_space("digits"), [8], precisions=["cpu-int8"]) for number in range(2)
    )
    assert first.manifest == second.manifest
    fresh = write_kit(tmp_path / "other", get_space("digits"), [8], precisions=["cpu-int8"], seed=1)
    assert fresh.manifest.sha256 != first.manifest.sha256


def test_several_resolutions_share_pieces_and_probe(tmp_path: Path) -> None:
    """One table holds all resolutions, keyed by block and input size; a block is written once."""
    space = get_space("cifar-mbv3")
    twice = type(space).from_dict({**space.to_dict(), "resolutions": (16, 32)})
    kit = write_kit(tmp_path / "kit", twice, [32, 16], blocks=True)
    assert kit.resolutions == (16, 32)
    keys = [net.piece for net in kit.manifest.nets if net.role == "block"]
    assert len(keys) == len(set(keys))
    assert len([net for net in kit.manifest.nets if net.role == "probe"]) == 1


def test_existing_folder_is_kept(own_kit: Path) -> None:
    """A kit that was measured halfway must not vanish."""
    before = {path.name: path.stat().st_mtime_ns for path in own_kit.rglob("*")}
    with pytest.raises(FileError, match="exists already"):
        write_kit(own_kit, get_space("digits"), [8])
    assert {path.name: path.stat().st_mtime_ns for path in own_kit.rglob("*")} == before


@pytest.mark.parametrize(
    ("resolution", "precision", "message"),
    [(9, "fp32", "resolution is 9; choices in digits: 8"), (8, "fp8", "precision is 'fp8'; expected one of fp32")],
)
def test_what_cannot_be_written_is_refused(resolution: int, precision: str, message: str, tmp_path: Path) -> None:
    """The message names the choices, and nothing is left behind."""
    with pytest.raises(LatencyTableError, match=message):
        write_kit(tmp_path / "kit", get_space("digits"), [resolution], precisions=[precision])  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


def test_damaged_kits_are_refused_by_what_is_wrong(own_kit: Path) -> None:
    """A copy to a board may stop halfway, or go wrong in the middle."""
    manifest = own_kit / MANIFEST
    good = json.loads(manifest.read_text())

    def expect(error: type[Exception], match: str, **changes: object) -> None:
        manifest.write_text(json.dumps({**good, **changes}))
        with pytest.raises(error, match=match):
            read_kit(own_kit)

    net = good["nets"][1]
    expect(FileError, "schema_version 7", schema_version=7)
    expect(LatencyTableError, "names no probe", nets=[])
    expect(LatencyTableError, r"nets\[0\]\.role is 'spare'", nets=[{**net, "role": "spare"}])
    expect(LatencyTableError, "is damaged: an architecture has the fields", nets=[good["nets"][0], {**net, "arch": {}}])
    expect(LatencyTableError, "holds no hash of", nets=[good["nets"][0], {**net, "name": "../../etc/passwd"}])
    expect(LatencyTableError, "which no net has", nets=[*good["nets"][1:], {**good["nets"][0], "piece": "nothing"}])
    expect(LatencyTableError, "not in the folder", sha256={**good["sha256"], "../etc/passwd": "0"})
    manifest.write_text(json.dumps(good))
    victim = own_kit / "fp32" / f"{net['name']}.onnx"
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + b"\x00")
    with pytest.raises(LatencyTableError, match="altered or cut short; copy the kit again"):
        read_kit(own_kit)
    victim.unlink()
    with pytest.raises(LatencyTableError, match="not in the folder; write the kit again"):
        read_kit(own_kit)
    with pytest.raises(FileError, match="does not exist"):
        read_kit(own_kit / "elsewhere")
