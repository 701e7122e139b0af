"""What a subnet costs, counted: multiply-adds, parameters, memory; for one architecture or for millions.

The convention is the field's: one FLOP is one multiply-add of a convolution or a linear layer; BatchNorm, activations,
pools and additions count nothing. Relies on ``pieces.py`` for every number.
"""

from __future__ import annotations

import functools
import logging
import warnings
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from deps.ground.console import require
from deps.profile.additive import CostTable, evaluate, tabulate
from deps.profile.memory import activation_bytes, piece_activation_bytes, piece_weight_bytes, weight_bytes
from deps.supernet.arch import ArchSpec
from deps.supernet.plan import plan
from deps.supernet.sampling import Genes
from deps.supernet.space import SearchSpace


@dataclass(frozen=True, slots=True)
class Cost:
    """What one subnet costs, for one image."""

    flops: int
    """Multiply-adds of convolutions and linear layers."""

    params: int
    """Trained numbers, BatchNorm's scale and shift included."""

    activation_bytes: int
    """Peak of the memory for feature maps, float32."""

    weight_bytes: int
    """Size of the shipped float32 weights, BatchNorm folded."""

    def to_dict(self) -> dict[str, int]:
        """Return plain JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CostArrays:
    """What each subnet of a population costs; every array has shape (architectures,)."""

    flops: NDArray[np.int64]
    params: NDArray[np.int64]
    activation_bytes: NDArray[np.int64]
    weight_bytes: NDArray[np.int64]


def count(space: SearchSpace, arch: ArchSpec) -> Cost:
    """Return what one subnet costs.

    Raises:
        ArchError: ``arch`` is not of this space.
    """
    subnet = plan(space, arch)
    return Cost(
        flops=sum(piece.macs for piece in subnet.pieces()),
        params=sum(piece.params for piece in subnet.pieces()),
        activation_bytes=activation_bytes(subnet),
        weight_bytes=weight_bytes(subnet),
    )


def costs(space: SearchSpace, genes: Genes) -> CostArrays:
    """Return what each row of a population costs; exactly what ``count`` says of each."""
    return CostArrays(*evaluate(cost_tables(space), genes))


@functools.lru_cache(maxsize=32)
def cost_tables(space: SearchSpace) -> tuple[CostTable, CostTable, CostTable, CostTable]:
    """Return the tables of flops, params, activation bytes and weight bytes, in this order."""
    return (
        tabulate(space, lambda piece: piece.macs),
        tabulate(space, lambda piece: piece.params),
        tabulate(space, piece_activation_bytes, reduce="max"),
        tabulate(space, piece_weight_bytes),
    )


def fvcore_flops(space: SearchSpace, arch: ArchSpec) -> int:
    """Return the multiply-adds that fvcore counts in the plain network, convolutions and linear layers.

    This is the check on ``count``, written by others: it traces the real network, and takes about 0.2 s.

    Raises:
        ArchError: ``arch`` is not of this space.
        MissingExtraError: torch or fvcore is not installed.
    """
    torch = require("torch", "compile")
    with warnings.catch_warnings():
        # It is deprecated torch calls that fvcore warns of, on import and while it traces.
        warnings.simplefilter("ignore")
        analysis = require("fvcore.nn", "compile")
    from deps.supernet.network import network

    # Tracing needs real tensors, but no particular numbers: zeros are quicker than torch's random weights.
    with torch.device("meta"):
        module = network(space, arch)
    module = module.to_empty(device="cpu").eval()
    for tensor in module.state_dict().values():
        tensor.zero_()
    image_NCHW = torch.zeros(1, space.in_channels, arch.resolution, arch.resolution)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
        by_operator = analysis.FlopCountAnalysis(module, image_NCHW).by_operator()
    return int(by_operator["conv"] + by_operator["linear"])
