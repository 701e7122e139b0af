"""The one rule by which a subnet's weights are part of the supernet's.

Every tensor of a subnet is the leading corner of the supernet's tensor of the same name; the kernels of a depthwise
convolution with elastic kernel size are the centre of the larger ones, passed through a trained matrix per step.
Training, extraction and checkpoint import all use this function. Source: Cai et al., Once-for-All, ICLR 2020.

Shape suffixes: O output channels, I input channels of a group, K kernel size.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from torch import Tensor

from deps.ground.errors import SpaceError
from deps.supernet.arch import ArchSpec
from deps.supernet.pieces import InvertedPlan
from deps.supernet.plan import parameter_shapes, plan
from deps.supernet.space import SearchSpace


def slice_weights(space: SearchSpace, tensors: Mapping[str, Tensor], arch: ArchSpec) -> dict[str, Tensor]:
    """Return the weights of one subnet, by the names of its plain network.

    Pure and differentiable: gradients of the result flow into ``tensors``. Where no kernel is transformed the results
    share storage with ``tensors``.

    Args:
        space: the search space.
        tensors: all tensors of the supernet, by name; kernel matrices may be absent, then kernels are cropped only.
        arch: the subnet.

    Raises:
        ArchError: ``arch`` is not of this space.
        KeyError: a tensor is missing.
    """
    subnet = plan(space, arch)
    elastic = {
        f"{piece.depthwise.name}.conv.weight": piece.elastic_kernels
        for piece in subnet.pieces()
        if isinstance(piece, InvertedPlan) and len(piece.elastic_kernels) > 1
    }
    weights = {}
    for name, shape in parameter_shapes(subnet).items():
        tensor = tensors[name]
        if name in elastic:
            prefix = name.removesuffix(".conv.weight")
            kernel_OIKK = tensor[: shape[0]] if tensor.shape[0] != shape[0] else tensor
            weights[name] = shrink_kernel(kernel_OIKK, shape[-1], elastic[name], tensors, prefix)
        else:
            weights[name] = leading_corner(tensor, shape)
    return weights


def leading_corner(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the first ``shape[i]`` entries along every dimension i, as a view."""
    for dim, (have, want) in enumerate(zip(tensor.shape, shape, strict=True)):
        if have != want:
            tensor = tensor.narrow(dim, 0, want)
    return tensor


def crop_kernel(weight_OIKK: Tensor, kernel: int) -> Tensor:
    """Return the centred window of a larger kernel, as a view.

    Args:
        weight_OIKK: full kernel, shape (O, I, K, K).
        kernel: k, with k <= K and the same parity as K.

    Raises:
        SpaceError: k is larger than K or of other parity.
    """
    full = weight_OIKK.shape[-1]
    if kernel > full or (full - kernel) % 2:
        raise SpaceError(f"a kernel of {kernel} is not the centre of one of {full}; expected a smaller odd size")
    start = (full - kernel) // 2
    return weight_OIKK[:, :, start : start + kernel, start : start + kernel]


def matrix_name(prefix: str, larger: int, smaller: int) -> str:
    """Return the name of the matrix that turns kernels of one size into those of the next smaller."""
    return f"{prefix}.matrix_{larger}to{smaller}"


def shrink_kernel(
    weight_OIKK: Tensor, kernel: int, choices: tuple[int, ...], tensors: Mapping[str, Tensor], prefix: str
) -> Tensor:
    """Return kernels of size ``kernel``: crop to the next smaller choice, multiply by its matrix, and so on.

    Args:
        weight_OIKK: kernels of the largest choice.
        kernel: the choice wanted.
        choices: all kernel choices of the stage, ascending.
        tensors: where the matrices are; an absent matrix leaves the crop as it is.
        prefix: name of the convolution in ``tensors``.
    """
    steps = [size for size in reversed(choices) if size >= kernel]
    for larger, smaller in itertools.pairwise(steps):
        weight_OIKK = crop_kernel(weight_OIKK, smaller)
        matrix = tensors.get(matrix_name(prefix, larger, smaller))
        if matrix is not None:
            # Row j of the matrix makes entry j of the new kernel, which is flattened row by row.
            flat = weight_OIKK.reshape(*weight_OIKK.shape[:2], smaller * smaller)
            weight_OIKK = (flat @ matrix.T).reshape(*weight_OIKK.shape[:2], smaller, smaller)
    return weight_OIKK
