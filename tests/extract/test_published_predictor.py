"""A predictor that others published says of our subnets what it says of theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deps.extract.published_predictor import RESOLUTIONS, known_part, load_predictor
from deps.ground.errors import CheckpointError, FileError
from deps.supernet import ArchSpec, get_space
from deps.supernet.sampling import decode, encode, random_genes

PUBLISHED = Path(__file__).parents[3] / "shared" / "reference" / "measurements" / "ofa_acc_predictor.pth"


@pytest.fixture
def space():
    return known_part(get_space("ofa-mbv3-w1.0"))


def write(path: Path, *shapes: tuple[int, ...]) -> Path:
    """A network of random numbers."""
    torch.manual_seed(0)
    torch.save({f"layers.{i}": torch.randn(shape) for i, shape in enumerate(shapes)}, path)
    return path


def test_inputs_are_one_hot_in_the_published_order(space, tmp_path, rng):
    """By hand from the lists of once-for-all: kernels of 20 blocks, then expands, then the resolution."""
    path = write(tmp_path / "p.pth", (5, 128), (5,), (1, 5))
    layers = list(torch.load(path, weights_only=True).values())
    genes = random_genes(space, 20, rng)
    expected = []
    for arch in decode(space, genes):
        x = torch.zeros(128)
        for block, (kernel, expand) in enumerate(zip(arch.kernels, arch.expands, strict=True)):
            if kernel:
                x[3 * block + (3, 5, 7).index(kernel)] = 1
                x[60 + 3 * block + (3, 4, 6).index(expand)] = 1
        x[120 + RESOLUTIONS.index(arch.resolution)] = 1
        expected.append(float(layers[2] @ torch.relu(layers[0] @ x + layers[1])))
    np.testing.assert_allclose(load_predictor(path, space)(genes), expected, rtol=1e-4, atol=1e-5)


def test_only_resolutions_that_it_knows_are_searched(space):
    """Between them it says nothing, and a guess would be taken for its word."""
    assert space.resolutions == (128, 144, 160, 176, 192, 208, 224)
    for name in ("ofa-resnet50", "ofa-proxyless-w1.3", "digits"):
        with pytest.raises(CheckpointError, match="leave out --predictor"):
            known_part(get_space(name))


@pytest.mark.parametrize(
    "shapes", [((5, 127), (5,), (1, 5)), ((5, 128), (5,), (2, 5)), ((128,),), ((5, 128), (4,), (1, 5))]
)
def test_another_network_is_refused(space, tmp_path, shapes):
    """Its answers would be numbers too."""
    with pytest.raises(CheckpointError, match=r"ofa_acc_predictor\.pth"):
        load_predictor(write(tmp_path / "p.pth", *shapes), space)


def test_a_file_that_is_missing_is_named(space, tmp_path):
    """A slip of the pen is the usual reason."""
    with pytest.raises(FileError, match=r"nothing\.pth"):
        load_predictor(tmp_path / "nothing.pth", space)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs the published predictor in ../shared")
def test_the_published_file_prefers_the_larger_subnet(space):
    """Its authors measured 0.7 to 0.8 on ImageNet's classes."""
    ends = encode(space, [ArchSpec.smallest(space), ArchSpec.largest(space)])
    small, large = load_predictor(PUBLISHED, space)(ends)
    assert 0.6 < small < large - 0.05
    assert large < 0.9
