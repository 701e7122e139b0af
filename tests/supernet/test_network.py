"""Plain networks: ordinary modules, whose copies share nothing."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deps.ground.errors import ArchError
from deps.supernet import ArchSpec, Supernet, get_space, slice_weights
from deps.supernet.network import network, skeleton, with_weights
from deps.supernet.plan import parameter_shapes, plan
from strategies import archs, invented_spaces, lived_in

DIGITS = get_space("digits")


@given(data=st.data(), space=invented_spaces())
def test_a_network_has_the_tensors_of_its_plan(data, space):
    arch = data.draw(archs(space))
    state = network(space, arch).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == parameter_shapes(plan(space, arch))


@given(data=st.data(), space=invented_spaces())
@settings(max_examples=20)
def test_a_copied_network_is_the_built_one(data, space):
    """Copying a skeleton is fast; it must give what building and loading give, module by module."""
    arch = data.draw(archs(space))
    weights = slice_weights(space, lived_in(space).tensors, arch)
    built = network(space, arch).eval()
    built.load_state_dict(weights)
    copied = with_weights(skeleton(space, arch, is_training=False), {n: w.clone() for n, w in weights.items()})
    assert str(copied) == str(built)
    assert list(copied.state_dict()) == list(built.state_dict())
    assert [name for name, _ in copied.named_parameters()] == [name for name, _ in built.named_parameters()]
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in copied.parameters())
    assert not any(module.training for module in copied.modules())
    x = torch.randn(2, space.in_channels, arch.resolution, arch.resolution)
    assert torch.equal(copied(x), built(x))


def test_copies_share_neither_weights_nor_hooks_nor_mode():
    """The blocks behind a skeleton are lent to every subnet: nothing done to one may be seen in another."""
    supernet = lived_in(DIGITS)
    arch = ArchSpec.largest(DIGITS)
    one, two = supernet.subnet(arch), supernet.subnet(arch)
    x = torch.randn(1, 1, 8, 8)
    before = two(x)
    calls = []
    for module in one.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
        module.register_buffer("mark", torch.zeros(1))
    one.train()
    one.classifier = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    assert torch.equal(two(x), before)
    assert torch.equal(supernet.subnet(arch)(x), before)
    assert calls == []
    assert not any("mark" in name for name, _ in supernet.subnet(arch).named_buffers())


def test_a_subnet_can_be_copied_pickled_and_trained():
    subnet = lived_in(DIGITS).subnet(ArchSpec.smallest(DIGITS))
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for twin in (copy.deepcopy(subnet), pickle.loads(pickle.dumps(subnet))):
        assert torch.equal(twin(x), subnet(x))
    subnet.train()
    before = {name: tensor.clone() for name, tensor in subnet.state_dict().items()}
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.1)
    nn.functional.cross_entropy(subnet(x), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    assert all(parameter.grad is not None for parameter in subnet.parameters())
    unchanged = [name for name, tensor in subnet.state_dict().items() if torch.equal(tensor, before[name])]
    # A shift before a 1 x 1 convolution and its BatchNorm is taken out again: its gradient is rounding, which may be 0.
    assert [name for name in unchanged if not name.endswith("project.norm.bias")] == []


def test_layers_do_not_depend_on_the_image_so_skeletons_share_them():
    """One set of blocks serves all 25 resolutions; otherwise the lent blocks would fill the memory."""
    space = get_space("ofa-mbv3-w1.0")
    small = skeleton(space, ArchSpec.largest(space, 128), is_training=False)
    large = skeleton(space, ArchSpec.largest(space, 224), is_training=False)
    assert [id(block) for block in small.stages[0]] == [id(block) for block in large.stages[0]]


def test_dropout_stands_before_the_classifier_and_works_in_training_only():
    torch.manual_seed(0)
    module = network(DIGITS, ArchSpec.smallest(DIGITS), dropout=0.5)
    module.eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(module(x), module(x))
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    module.dropout.train()
    assert not torch.equal(module(x), module(x))


def test_a_missing_weight_is_named():
    arch = ArchSpec.smallest(DIGITS)
    weights = dict(slice_weights(DIGITS, Supernet.create(DIGITS).tensors, arch))
    del weights["head.0.conv.weight"]
    with pytest.raises(KeyError, match=r"head\.0\.conv\.weight"):
        with_weights(skeleton(DIGITS, arch, is_training=False), weights)


def test_an_architecture_of_another_space_has_no_network():
    with pytest.raises(ArchError):
        network(DIGITS, ArchSpec.largest(get_space("cifar-mbv3")))
    with pytest.raises(ArchError):
        skeleton(DIGITS, ArchSpec.largest(get_space("cifar-mbv3")), is_training=False)
