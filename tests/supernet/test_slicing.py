"""The one rule: which numbers of the supernet a subnet has, and that gradients flow back to exactly these."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.ground.errors import SpaceError
from deps.supernet import ArchSpec, ConvSpec, PoolSpec, SearchSpace, StageSpec, get_space, slice_weights
from deps.supernet.plan import parameter_shapes, plan
from deps.supernet.slicing import crop_kernel, leading_corner, matrix_name, shrink_kernel
from deps.supernet.supernet import is_statistic
from strategies import archs, invented_spaces, lived_in

TINY = SearchSpace(
    name="tiny",
    stem=(ConvSpec(widths=(2, 3), kernel=3, activation="hswish"),),
    stages=(
        StageSpec(
            widths=(2, 3), depths=(1, 2), kernels=(3, 5, 7), expands=(2, 3), activation="hswish", squeeze_excite=True
        ),
    ),
    head=(PoolSpec(kind="mean"),),
    resolutions=(5,),
    num_classes=2,
    in_channels=1,
)
"""Small enough to differentiate with respect to every number of it, with everything that slicing knows."""


@given(data=st.data(), space=invented_spaces())
def test_a_subnet_has_the_shapes_of_its_plain_network(data, space):
    arch = data.draw(archs(space))
    weights = slice_weights(space, lived_in(space).tensors, arch)
    assert {name: tuple(w.shape) for name, w in weights.items()} == parameter_shapes(plan(space, arch))


@given(space=invented_spaces())
def test_the_largest_subnet_has_every_weight_as_it_is(space):
    """No copy and no change: the largest subnet *is* the supernet, but for the kernel matrices."""
    supernet = lived_in(space)
    for name, weight in slice_weights(space, supernet.tensors, ArchSpec.largest(space)).items():
        assert weight.data_ptr() == supernet.tensors[name].data_ptr()
        assert weight.shape == supernet.tensors[name].shape


@given(data=st.data(), space=invented_spaces())
@settings(max_examples=20)
def test_slicing_changes_nothing(data, space):
    supernet = lived_in(space)
    before = {name: tensor.clone() for name, tensor in supernet.tensors.items()}
    slice_weights(space, supernet.tensors, data.draw(archs(space)))
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.tensors.items())


@pytest.mark.parametrize(
    "choices",
    [
        {"kernels": 3, "expands": 2, "depths": 1, "widths": 2},
        {"kernels": [5, 3], "expands": [3, 2], "depths": 2, "widths": [3, 2]},
        {"kernels": 7, "expands": 3, "depths": 2, "widths": [2, 3]},
    ],
    ids=["smallest", "between", "largest"],
)
def test_gradients_of_the_slices_are_right(choices):
    """Numerical derivatives with respect to the trained numbers of the supernet, the kernel matrices included."""
    arch = ArchSpec.create(TINY, **choices)
    tensors = lived_in(TINY).to(dtype=torch.float64).tensors
    names = [name for name in tensors if not is_statistic(name)]
    inputs = [tensors[name].clone().requires_grad_() for name in names]

    def weighted_sum(*values: torch.Tensor) -> torch.Tensor:
        weights = slice_weights(TINY, {**tensors, **dict(zip(names, values, strict=True))}, arch)
        # Each entry counts differently, so that an exchange of two entries shows.
        return sum(
            (w * torch.linspace(1, 2, w.numel(), dtype=w.dtype).view(w.shape)).sin().sum()
            for name, w in weights.items()
            if not is_statistic(name)
        )

    # The fast mode compares derivatives along random directions through all numbers at once.
    assert torch.autograd.gradcheck(weighted_sum, inputs, fast_mode=True)


def test_gradients_reach_the_subnets_part_alone():
    """What a subnet does not use must not be moved by training it."""
    tensors = {n: t.requires_grad_() for n, t in lived_in(TINY).tensors.items() if t.is_floating_point()}
    tensors |= {n: t for n, t in lived_in(TINY).tensors.items() if not t.is_floating_point()}
    arch = ArchSpec.create(TINY, kernels=5, expands=2, depths=1, widths=2)
    loss = sum((w**2).sum() for w in slice_weights(TINY, tensors, arch).values() if w.is_floating_point())
    loss.backward()

    depthwise = tensors["stages.0.0.depthwise.conv.weight"].grad
    middle = plan(TINY, arch).stages[0][0].depthwise.channels_out
    assert depthwise[:middle, :, 1:-1, 1:-1].abs().min() > 0
    assert depthwise[middle:].abs().max() == 0
    assert depthwise[:, :, 0].abs().max() == 0
    assert tensors["stages.0.0.depthwise.matrix_7to5"].grad.abs().min() > 0
    assert tensors["stages.0.0.depthwise.matrix_5to3"].grad is None
    assert tensors["stages.0.1.project.conv.weight"].grad is None
    assert tensors["stages.0.0.expand.conv.weight"].grad[:, 2:].abs().max() == 0


def test_the_smallest_kernel_passes_through_both_matrices():
    """7 to 5 to 3: the centre first, then the matrix times the flattened window; the usual mistake skips one."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 1, 7, 7, generator=generator, dtype=torch.float64)
    large = torch.randn(25, 25, generator=generator, dtype=torch.float64)
    small = torch.randn(9, 9, generator=generator, dtype=torch.float64)
    matrices = {matrix_name("conv", 7, 5): large, matrix_name("conv", 5, 3): small}

    five = torch.zeros(4, 25, dtype=torch.float64)
    three = torch.zeros(4, 9, dtype=torch.float64)
    for channel in range(4):
        window = [float(weight[channel, 0, 1 + i // 5, 1 + i % 5]) for i in range(25)]
        for j in range(25):
            five[channel, j] = sum(float(large[j, i]) * window[i] for i in range(25))
        centre = [float(five[channel, 5 * (1 + i // 3) + 1 + i % 3]) for i in range(9)]
        for j in range(9):
            three[channel, j] = sum(float(small[j, i]) * centre[i] for i in range(9))

    torch.testing.assert_close(shrink_kernel(weight, 5, (3, 5, 7), matrices, "conv"), five.view(4, 1, 5, 5))
    torch.testing.assert_close(shrink_kernel(weight, 3, (3, 5, 7), matrices, "conv"), three.view(4, 1, 3, 3))
    assert shrink_kernel(weight, 7, (3, 5, 7), matrices, "conv") is weight


@given(data=st.data(), space=invented_spaces())
@settings(max_examples=20)
def test_plain_kernels_are_the_centres_of_the_larger_ones(data, space):
    """CompOFA trains without matrices; and a fresh supernet, whose matrices are identities, starts the same way."""
    arch = data.draw(archs(space))
    plain = lived_in(space, has_matrices=False)
    weights = slice_weights(space, plain.tensors, arch)
    for name, weight in weights.items():
        full = plain.tensors[name]
        corner = leading_corner(full, (*weight.shape[:2], *full.shape[2:])) if full.dim() == 4 else full
        if full.dim() == 4:
            assert torch.equal(weight, crop_kernel(corner, weight.shape[-1]))


@pytest.mark.parametrize("kernel", [9, 4])
def test_only_a_smaller_odd_kernel_is_a_centre(kernel):
    with pytest.raises(SpaceError, match=f"a kernel of {kernel} is not the centre of one of 7"):
        crop_kernel(torch.zeros(1, 1, 7, 7), kernel)


def test_a_missing_tensor_is_named():
    space = get_space("digits")
    tensors = dict(lived_in(space).tensors)
    del tensors["stages.0.0.project.conv.weight"]
    with pytest.raises(KeyError, match=r"stages\.0\.0\.project\.conv\.weight"):
        slice_weights(space, tensors, ArchSpec.largest(space))
