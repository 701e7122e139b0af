"""Published checkpoints: every name and shape of the five files, in both namings, and what is said when one differs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import pytest
import torch

from deps.ground.errors import CheckpointError
from deps.supernet import ArchSpec, Supernet, get_space
from deps.supernet.published import published_names, published_state, supernet_from_published
from deps.supernet.supernet import supernet_shapes
from strategies import SHIPPED, lived_in

LISTINGS = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "statedict"

# SHA-256 of the sorted lines "name [shape]" of the public once-for-all networks' state dicts, one line a tensor.
DIGESTS = {
    "ofa-mbv3-w1.0": "55ba5c86d1c9d29326fa9002dfe624f18e72584ed0783fa39c317671941d4af1",
    "ofa-mbv3-w1.2": "1fa2372db2239f778f2a155b262402750e8891a689f6690bb3af2d6fd7949808",
    "ofa-proxyless-w1.0": "ecfee3904b38eb6086698a7565aca9479bf4a5cff3b87336bcda68915d44e1b8",
    "ofa-proxyless-w1.3": "d9256a2e210be1990bd50edb4a59a1698fbd0eef70682d125ccce7939098de9c",
    "ofa-resnet50": "f9c9732dded038f9b84544c3cd93da87efd3ae04afac5798362a34fa1bc41885",
}
PUBLISHED = [get_space(name) for name in DIGESTS]
by_name = pytest.mark.parametrize("space", PUBLISHED, ids=lambda space: space.name)


def listing(space):
    names = published_names(space)
    return {names[name]: list(shape) for name, shape in supernet_shapes(space).items()}


@by_name
def test_every_published_name_and_shape_comes_out(space):
    lines = "\n".join(f"{name} {shape}" for name, shape in sorted(listing(space).items()))
    assert hashlib.sha256(lines.encode()).hexdigest() == DIGESTS[space.name]


@by_name
def test_the_listings_say_the_same(space):
    """The digests tell that something differs; the listings, where they are at hand, tell what."""
    path = LISTINGS / f"{space.name.removeprefix('ofa-').replace('-', '_')}.json"
    if not path.parent.parent.exists():
        pytest.skip("the listings of the published state dicts are not part of the repository")
    published = {name: shape for name, shape, _ in json.loads(path.read_text())["entries"]}
    assert listing(space) == published


def test_a_block_is_named_as_published():
    """What the digests hold, to be read: one elastic block with everything in it."""
    names = published_names(get_space("ofa-mbv3-w1.0"))
    block = {theirs: ours for ours, theirs in names.items() if ours.startswith("stages.1.0.") and "norm" not in ours}
    assert block == {
        "blocks.5.conv.inverted_bottleneck.conv.conv.weight": "stages.1.0.expand.conv.weight",
        "blocks.5.conv.depth_conv.conv.conv.weight": "stages.1.0.depthwise.conv.weight",
        "blocks.5.conv.depth_conv.conv.7to5_matrix": "stages.1.0.depthwise.matrix_7to5",
        "blocks.5.conv.depth_conv.conv.5to3_matrix": "stages.1.0.depthwise.matrix_5to3",
        "blocks.5.conv.depth_conv.se.fc.reduce.weight": "stages.1.0.squeeze.reduce.weight",
        "blocks.5.conv.depth_conv.se.fc.reduce.bias": "stages.1.0.squeeze.reduce.bias",
        "blocks.5.conv.depth_conv.se.fc.expand.weight": "stages.1.0.squeeze.expand.weight",
        "blocks.5.conv.depth_conv.se.fc.expand.bias": "stages.1.0.squeeze.expand.bias",
        "blocks.5.conv.point_linear.conv.conv.weight": "stages.1.0.project.conv.weight",
    }
    assert names["stages.1.0.expand.norm.running_mean"] == "blocks.5.conv.inverted_bottleneck.bn.bn.running_mean"
    assert names["stem.0.norm.weight"] == "first_conv.bn.weight"
    resnet = published_names(get_space("ofa-resnet50"))
    assert resnet["stem.1.conv.weight"] == "input_stem.1.conv.conv.conv.weight"
    assert resnet["stages.2.0.shortcut.norm.bias"] == "blocks.8.downsample.bn.bn.bias"
    assert resnet["classifier.weight"] == "classifier.linear.linear.weight"


@pytest.mark.parametrize("is_old", [True, False], ids=["mobile_inverted_conv", "conv"])
@by_name
def test_a_published_state_becomes_the_same_supernet(space, is_old):
    """Both directions, with the space recognised by its shapes; 7 classes, as after fine-tuning."""
    supernet = lived_in(dataclasses.replace(space, num_classes=7))
    state = published_state(supernet, is_old=is_old)
    assert any("mobile_inverted_conv" in name for name in state) == (is_old and "resnet" not in space.name)
    found = supernet_from_published(state)
    assert found.space == supernet.space
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in supernet.tensors.items())
    assert set(found.tensors) == set(supernet.tensors)


@pytest.mark.parametrize("name", ["cifar-mbv3", "cifar-proxyless", "cifar-resnet50"])
def test_relatives_of_the_published_spaces_are_named_alike(name):
    """Their shapes are those of the ImageNet spaces, so the space must be given; its strides are its own."""
    supernet = lived_in(get_space(name))
    found = supernet_from_published(published_state(supernet), space=get_space(name))
    assert found.space == supernet.space


@pytest.mark.parametrize("name", ["ofa-mbv3-w1.0", "ofa-proxyless-w1.3", "ofa-resnet50"])
def test_a_plain_network_becomes_a_supernet_whose_largest_subnet_it_is(name):
    """A teacher starts a supernet: the wrappers' names are added, the matrices it lacks become identities."""
    space = get_space(name)
    supernet = lived_in(space)
    found = supernet_from_published(published_state(supernet, naming="static"))
    assert found.space == space
    for key, tensor in found.tensors.items():
        assert torch.equal(tensor, torch.eye(len(tensor)) if ".matrix_" in key else supernet.tensors[key])
    arch = ArchSpec.largest(space, 128)
    x = torch.randn(1, 3, 128, 128)
    assert torch.equal(found(x, arch), supernet(x, arch))


def test_a_supernet_without_matrices_crops_its_kernels():
    space = get_space("ofa-mbv3-w1.0")
    found = supernet_from_published(published_state(lived_in(space, has_matrices=False)))
    assert set(found.tensors) == set(supernet_shapes(space, has_matrices=False))


def test_names_of_a_distributed_run_and_half_numbers_are_read():
    supernet = lived_in(get_space("ofa-proxyless-w1.0"))
    state = {
        f"module.{name}": tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in published_state(supernet).items()
    }
    found = supernet_from_published(state)
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.float32, torch.int64}


def test_tensors_that_share_memory_are_separated():
    """Sorting channels writes in place; two tensors of one storage would be sorted twice."""
    space = get_space("ofa-mbv3-w1.0")
    state = published_state(lived_in(space))
    one, two = (f"blocks.{block}.conv.depth_conv.conv.5to3_matrix" for block in (1, 2))
    state[two] = state[one]
    found = supernet_from_published(state)
    assert found.tensors["stages.0.0.depthwise.matrix_5to3"].data_ptr() != (
        found.tensors["stages.0.1.depthwise.matrix_5to3"].data_ptr()
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda s: s.pop("blocks.7.conv.point_linear.conv.conv.weight"),
            "the weights lack 'blocks.7.conv.point_linear.conv.conv.weight', which a supernet of ofa-mbv3-w1.0 has",
        ),
        (
            lambda s: s.pop("blocks.3.conv.depth_conv.conv.7to5_matrix"),
            "the weights lack 'blocks.3.conv.depth_conv.conv.7to5_matrix'",
        ),
        (
            lambda s: s.update({"first_conv.conv.weight": torch.zeros(16, 1, 3, 3)}),
            "'first_conv.conv.weight' has shape [16, 1, 3, 3]; a supernet of ofa-mbv3-w1.0 has [16, 3, 3, 3] there",
        ),
        (
            lambda s: s.update({"blocks.21.conv.weight": torch.zeros(1)}),
            "the weights hold 'blocks.21.conv.weight', which a supernet of ofa-mbv3-w1.0 does not have",
        ),
        (
            lambda s: s.update({"classifier.linear.bias": torch.zeros(3)}),
            "'classifier.linear.weight' has shape [1000, 1280]; a supernet of ofa-mbv3-w1.0 has [3, 1280] there",
        ),
        (lambda s: s.pop("classifier.linear.bias"), "the weights lack 'classifier.linear.bias'"),
    ],
)
@pytest.mark.parametrize("is_given", [True, False], ids=["given", "recognised"])
def test_what_does_not_fit_is_named_with_what_was_expected(change, expected, is_given):
    space = get_space("ofa-mbv3-w1.0")
    state = published_state(Supernet.create(space))
    change(state)
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        supernet_from_published(state, space=space if is_given else None)


def test_weights_of_another_space_are_told_as_such():
    state = published_state(Supernet.create(get_space("ofa-mbv3-w1.2")))
    with pytest.raises(CheckpointError, match=re.escape("these are weights of ofa-mbv3-w1.2")):
        supernet_from_published(state, space=get_space("ofa-mbv3-w1.0"))


def test_foreign_weights_fit_no_space():
    with pytest.raises(CheckpointError, match=r"the weights fit none of ofa-mbv3-w1\.0, .*name the space"):
        supernet_from_published({"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)})


def test_a_space_of_another_build_has_no_published_names():
    with pytest.raises(CheckpointError, match="digits-like is not built as a published once-for-all network"):
        space = next(space for space in SHIPPED if space.name == "digits")
        published_names(dataclasses.replace(space, name="digits-like", stem=space.stem[:1]))
