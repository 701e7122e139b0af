"""The accuracy predictor that once-for-all published, read from its file: a small network from choices to top-1.

Relies on the file holding the weights of four linear layers, 128-400-400-400-1 with ReLU between and no bias at the
end; its inputs are 3 kernel bits for each of 20 blocks, 3 expand bits for each, and 8 bits for 112 ... 224 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deps.ground.errors import CheckpointError
from deps.supernet import SearchSpace
from deps.supernet.sampling import Genes, active_blocks, columns

if TYPE_CHECKING:
    from deps.extract.search import Values

BLOCKS, CHOICES = 20, 3
RESOLUTIONS = tuple(range(112, 225, 16))
INPUTS = 2 * BLOCKS * CHOICES + len(RESOLUTIONS)


@dataclass(frozen=True, eq=False, slots=True)
class PublishedPredictor:
    """A function from subnets of one space to top-1 on ImageNet, as its authors measured it."""

    space: SearchSpace
    """Only its resolutions that the predictor knows."""

    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32] | None], ...]
    """Weight, shape (inputs, outputs), and bias of each layer."""

    def __call__(self, genes: Genes) -> Values:
        """Return the top-1 of each subnet, a fraction."""
        x = self._inputs(genes)
        for index, (weight, bias) in enumerate(self.layers):
            x = x @ weight if bias is None else x @ weight + bias
            if index < len(self.layers) - 1:
                np.maximum(x, 0, out=x)
        return x[:, 0].astype(np.float64)

    def _inputs(self, genes: Genes) -> NDArray[np.float32]:
        where, blocks = columns(self.space), CHOICES * np.arange(BLOCKS)
        active, rows = active_blocks(self.space, genes), np.arange(len(genes))
        x = np.zeros((len(genes), INPUTS), np.float32)
        x[rows[:, None], blocks + genes[:, where.kernels]] = active
        x[rows[:, None], BLOCKS * CHOICES + blocks + genes[:, where.expands]] = active
        known = np.array([RESOLUTIONS.index(resolution) for resolution in self.space.resolutions])
        x[rows, 2 * BLOCKS * CHOICES + known[genes[:, where.resolution]]] = 1
        return x


def known_part(space: SearchSpace) -> SearchSpace:
    """Return a space cut to the resolutions that the predictor knows.

    Raises:
        CheckpointError: the space is not of the kind that the predictor was trained on.
    """
    resolutions = tuple(resolution for resolution in space.resolutions if resolution in RESOLUTIONS)
    fits = (
        len(space.blocks) == BLOCKS
        and not space.width_choices
        and not space.has_elastic_stem
        and all(stage.kernels == (3, 5, 7) and stage.expands == (3, 4, 6) for stage in space.stages)
        and all(depths == (2, 3, 4) for depths in space.depth_choices)
    )
    if not fits or not resolutions:
        raise CheckpointError(
            f"the published predictor knows once-for-all's MobileNetV3 spaces at {RESOLUTIONS[0]} to "
            f"{RESOLUTIONS[-1]} pixels, and {space.name} is none of them; leave out --predictor and give images"
        )
    return replace(space, resolutions=resolutions)


def load_predictor(path: Path, space: SearchSpace) -> PublishedPredictor:
    """Read the published file.

    Args:
        path: ``ofa_acc_predictor.pth``, or another network of the same shape.
        space: the space, already cut to what the predictor knows.

    Raises:
        CheckpointError: the file holds something else.
        FileError: the file is missing or damaged.
    """
    from deps.supernet.torch_file import read_state_dict

    tensors = [tensor.float().numpy() for tensor in read_state_dict(path).values()]
    weights = [tensor for tensor in tensors if tensor.ndim == 2]
    shapes = [tensor.shape for tensor in tensors]
    widths = [weight.shape[0] for weight in weights]
    expected: list[tuple[int, ...]] = []
    for weight, inputs in zip(weights, [INPUTS, *widths], strict=False):
        expected += [(weight.shape[0], inputs), (weight.shape[0],)]
    # The last bias may be missing.
    if not weights or widths[-1] != 1 or shapes not in (expected, expected[:-1]):
        raise CheckpointError(
            f"{path} holds tensors of the shapes {', '.join(map(str, shapes[:6]))}; expected the layers of a network "
            f"from {INPUTS} inputs to one output, such as ofa_acc_predictor.pth"
        )
    layers = []
    for start in range(0, len(tensors), 2):
        bias = np.ascontiguousarray(tensors[start + 1]) if start + 1 < len(tensors) else None
        layers.append((np.ascontiguousarray(tensors[start].T), bias))
    return PublishedPredictor(space, tuple(layers))
