"""Weight bytes are those of the file that is shipped; the activation peak is what really lives at once."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deps.profile.memory import activation_bytes, weight_bytes
from deps.supernet import ArchSpec, SearchSpace, get_space
from deps.supernet.onnx_graph import onnx_from_subnet
from deps.supernet.pieces import InvertedPlan
from deps.supernet.plan import parameter_shapes, plan
from deps.supernet.sampling import random_archs
from strategies import SHIPPED


@pytest.mark.parametrize("space", SHIPPED, ids=lambda space: space.name)
def test_weight_bytes_are_those_of_the_onnx_file(space: SearchSpace) -> None:
    """A budget such as --size 4MB is about the file; bounds of clipped activations are no weights."""
    for arch in [ArchSpec.smallest(space), *random_archs(space, 1, np.random.default_rng(1))]:
        subnet = plan(space, arch)
        weights = {name: np.ones(shape, np.float32) for name, shape in parameter_shapes(subnet).items()}
        graph = onnx_from_subnet(subnet, weights, eps=space.norm_eps).graph
        stored = sum(4 * math.prod(tensor.dims) for tensor in graph.initializer if tensor.dims)
        assert weight_bytes(subnet) == stored


def test_peak_of_a_known_block() -> None:
    """By hand: the first block of the largest digits net reads 16 maps of 8 x 8 while it writes 64."""
    space = get_space("digits")
    subnet = plan(space, ArchSpec.largest(space))
    block = subnet.stages[0][0]
    assert isinstance(block, InvertedPlan)
    assert block.expand is not None
    # Expanding reads 16 x 8 x 8 and writes 64 x 8 x 8; the stride then leaves 64 x 4 x 4.
    assert block.peak_elements == (16 + 64) * 64
    assert activation_bytes(subnet) == 4 * (16 + 64) * 64


def test_peak_does_not_grow_with_depth_alone() -> None:
    """Maps of earlier blocks are gone: memory is a maximum, not a sum."""
    space = get_space("ofa-mbv3-w1.0")
    shallow = ArchSpec.create(space, depths=2, resolution=224)
    deep = ArchSpec.create(space, depths=4, resolution=224)
    assert activation_bytes(plan(space, shallow)) == activation_bytes(plan(space, deep))
