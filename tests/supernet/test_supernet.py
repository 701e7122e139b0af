"""The promise of the project: what was trained in the supernet is, number by number, what is shipped."""

from __future__ import annotations

import re

import numpy as np
import pytest
import specification
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.ground.errors import ArchError, CheckpointError
from deps.supernet import ArchSpec, Supernet, get_space
from deps.supernet.network import network
from deps.supernet.published import published_state
from deps.supernet.sampling import random_archs
from deps.supernet.supernet import supernet_shapes
from strategies import SHIPPED, archs, invented_spaces, lived_in

PUBLISHED_FAMILIES = [space for space in SHIPPED if not re.search("digits|narrow|tiny", space.name)]


def some_archs(space, count):
    """The extremes at the smallest image, and a few in between, drawn small to keep the time short."""
    drawn = random_archs(space, count, np.random.default_rng(3))
    drawn = [ArchSpec.from_dict(space, {**arch.to_dict(), "resolution": space.resolutions[0]}) for arch in drawn]
    return [ArchSpec.largest(space, space.resolutions[0]), ArchSpec.smallest(space), *drawn]


@given(data=st.data(), space=invented_spaces())
def test_extracted_subnet_computes_what_the_supernet_computes(data, space):
    """Slicing is exact, so accuracy measured in the supernet holds for the shipped model."""
    arch = data.draw(archs(space))
    supernet = lived_in(space)
    x = torch.randn(2, space.in_channels, arch.resolution, arch.resolution)
    assert torch.equal(supernet.subnet(arch)(x), supernet(x, arch))


@pytest.mark.parametrize("space", SHIPPED, ids=lambda space: space.name)
def test_extracted_subnet_computes_what_the_supernet_computes_in_shipped_spaces(space):
    supernet = lived_in(space)
    for arch in some_archs(space, 1):
        x = torch.randn(1, space.in_channels, arch.resolution, arch.resolution)
        assert torch.equal(supernet.subnet(arch)(x), supernet(x, arch))


@pytest.mark.parametrize(
    ("space", "has_matrices"),
    [*[(space, True) for space in PUBLISHED_FAMILIES], (get_space("cifar-mbv3"), False)],
    ids=lambda value: getattr(value, "name", "matrices" if value else "plain"),
)
def test_logits_are_those_of_the_specification(space, has_matrices):
    """An evaluation that knows nothing of our code, by published names and lists, agrees to nine decimals."""
    supernet = lived_in(space, has_matrices=has_matrices).to(dtype=torch.float64)
    state = published_state(supernet)
    generator = torch.Generator().manual_seed(5)
    for arch in some_archs(space, 1):
        x = torch.randn(2, 3, arch.resolution, arch.resolution, generator=generator, dtype=torch.float64)
        expected = specification.logits(space.name, state, x, arch.to_ofa(space))
        assert (expected[0] - expected[1]).abs().max() > 1e-6, "the images must matter, or nothing is compared"
        torch.testing.assert_close(supernet(x, arch), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("name", ["ofa-mbv3-w1.0", "ofa-resnet50"])
def test_logits_are_those_of_the_specification_at_an_odd_resolution(name):
    """132 pixels give maps of 66, 33, 17, 9 and 5: the average of a shortcut meets edges of one pixel."""
    space = get_space(name)
    supernet = lived_in(space).to(dtype=torch.float64)
    arch = ArchSpec.smallest(space, 132)
    x = torch.randn(1, 3, 132, 132, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = specification.logits(name, published_state(supernet), x, arch.to_ofa(space))
    torch.testing.assert_close(supernet(x, arch), expected, rtol=1e-12, atol=1e-9)


def test_a_subnet_owns_its_weights():
    space = get_space("digits")
    supernet = lived_in(space)
    arch = ArchSpec.largest(space)
    subnet = supernet.subnet(arch)
    x = torch.randn(1, 1, 8, 8)
    before = supernet(x, arch)
    with torch.no_grad():
        for tensor in subnet.state_dict().values():
            tensor.zero_()
    assert torch.equal(supernet(x, arch), before)


def test_the_forward_is_differentiable_down_to_the_kernel_matrices():
    space = get_space("digits")
    supernet = lived_in(space)
    for tensor in supernet.parameters.values():
        tensor.requires_grad_()
    supernet(torch.randn(2, 1, 8, 8), ArchSpec.smallest(space)).square().sum().backward()
    assert supernet.tensors["stages.0.0.depthwise.matrix_5to3"].grad.abs().max() > 0
    assert supernet.tensors["stages.0.1.depthwise.conv.weight"].grad is None


@given(space=invented_spaces(), seed=st.integers(0, 2**32))
@settings(max_examples=15)
def test_the_same_seed_gives_the_same_weights(space, seed):
    one, two, other = (Supernet.create(space, seed=number).tensors for number in (seed, seed, seed + 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_fresh_supernet_keeps_the_scale_of_its_signal():
    """Variance 2 / fan-out, identity matrices, unit BatchNorms."""
    space = get_space("ofa-mbv3-w1.0")
    tensors = Supernet.create(space, initial="fan-out").tensors
    weight = tensors["stages.4.3.expand.conv.weight"]
    assert weight.std().item() == pytest.approx((2 / weight.shape[0]) ** 0.5, rel=0.02)
    depthwise = tensors["stages.4.3.depthwise.conv.weight"]
    assert depthwise.std().item() == pytest.approx((2 / 49) ** 0.5, rel=0.02)
    assert torch.equal(tensors["stages.4.3.depthwise.matrix_7to5"], torch.eye(25))
    assert torch.equal(tensors["stem.0.norm.running_var"], torch.ones(16))
    assert tensors["stages.1.0.squeeze.reduce.bias"].abs().max() == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.pop("classifier.bias"), "the weights lack 'classifier.bias', which a supernet of digits has"),
        (lambda t: t.update(extra=torch.zeros(1)), "the weights hold 'extra', which a supernet of digits does not"),
        (
            lambda t: t.update({"classifier.bias": torch.zeros(3)}),
            "'classifier.bias' has shape [3]; a supernet of digits has [10] there",
        ),
        (lambda t: t.pop("stages.0.0.depthwise.matrix_5to3"), "lack 'stages.0.0.depthwise.matrix_5to3'"),
    ],
)
def test_foreign_tensors_are_refused_by_name(change, expected):
    space = get_space("digits")
    tensors = dict(Supernet.create(space).tensors)
    change(tensors)
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        Supernet(space, tensors)


def test_parameters_are_all_but_the_statistics():
    supernet = Supernet.create(get_space("digits"))
    left_out = set(supernet.tensors) - set(supernet.parameters)
    assert {name.rpartition(".")[2] for name in left_out} == {"running_mean", "running_var", "num_batches_tracked"}


def test_plain_kernels_are_an_option():
    space = get_space("ofa-mbv3-w1.0")
    plain = Supernet.create(space, has_matrices=False)
    assert set(supernet_shapes(space)) - set(plain.tensors) == {n for n in supernet_shapes(space) if ".matrix_" in n}
    assert Supernet.create(space).to(dtype=torch.float64).tensors["stem.0.conv.weight"].dtype == torch.float64


def test_an_architecture_of_another_space_is_refused():
    supernet = Supernet.create(get_space("digits"))
    foreign = ArchSpec.largest(get_space("cifar-mbv3"))
    for use in (supernet.subnet, lambda arch: supernet(torch.zeros(1, 1, 8, 8), arch)):
        with pytest.raises(ArchError):
            use(foreign)


def test_fan_in_weights_are_as_large_as_those_of_a_plain_network_alone():
    """A network alone starts with torch's weights; a comparison with it wants a supernet that can start alike."""
    space = get_space("cifar-mbv3-narrow")
    fan_in, fan_out = (Supernet.create(space, initial=initial).tensors for initial in ("fan-in", "fan-out"))
    plain = network(space, ArchSpec.largest(space)).state_dict()
    compared = [name for name, tensor in plain.items() if tensor.dim() == 4 and tensor.numel() > 2000]
    assert len(compared) > 30
    for name in compared:
        assert float(fan_in[name].std()) == pytest.approx(float(plain[name].std()), rel=0.1), name
        fan = plain[name].shape[0] * plain[name].shape[2] ** 2 // (plain[name].shape[0] if ".depthwise." in name else 1)
        assert float(fan_out[name].std()) == pytest.approx((2 / fan) ** 0.5, rel=0.1), name
