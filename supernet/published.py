"""The names that published once-for-all checkpoints give to our tensors, in both directions, as one rule.

Relies on the plan of the largest subnet, whose parts stand in the same order there. A published supernet wraps each
layer once more than a plain network of the same code does (``conv.conv.weight``, ``bn.bn.bias``); files from before
November 2020 say ``mobile_inverted_conv`` where later ones say ``conv``.

    ours                                     published
    stem.0, stem.1.depthwise                 first_conv, blocks.0.conv.depth_conv                (never wrapped)
    stages.1.0.expand  .depthwise  .project  blocks.5.conv.inverted_bottleneck  .depth_conv  .point_linear
    stages.1.0.squeeze.reduce                blocks.5.conv.depth_conv.se.fc.reduce
    stages.1.0.depthwise.matrix_7to5         blocks.5.conv.depth_conv.conv.7to5_matrix
    head.0, head.2, classifier               final_expand_layer, feature_mix_layer, classifier.linear
    stem.1 (ResNet)                          input_stem.1.conv
    stages.1.0.reduce  .spatial  .restore    blocks.4.conv1  .conv2  .conv3
    stages.1.0.shortcut                      blocks.4.downsample

Source: the public once-for-all code and its history.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from deps.ground.errors import CheckpointError
from deps.supernet.arch import ArchSpec
from deps.supernet.pieces import BottleneckPlan, ConvPlan, InvertedPlan
from deps.supernet.plan import NetworkPlan, plan
from deps.supernet.slicing import matrix_name
from deps.supernet.space import SearchSpace
from deps.supernet.spaces import get_space, space_names
from deps.supernet.supernet import Supernet, check_shapes, supernet_shapes

Naming: TypeAlias = Literal["supernet", "static"]
"""``supernet`` wraps elastic layers once more; ``static`` is how plain networks of that code (teachers) are named."""

OLD_WORD = "mobile_inverted_conv"
PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def published_names(space: SearchSpace, naming: Naming = "supernet") -> dict[str, str]:
    """Return the published name of every tensor of a supernet, by our name.

    Raises:
        CheckpointError: ``space`` is not built as one of the published families.
    """
    largest = plan(space, ArchSpec.largest(space))
    is_wrapped = naming == "supernet"
    if _is_mobile(space):
        pairs = _mobile_names(largest, is_wrapped)
    elif _is_resnet(space):
        pairs = _resnet_names(largest, is_wrapped)
    else:
        raise CheckpointError(
            f"{space.name} is not built as a published once-for-all network; expected the stem and head of "
            "MobileNetV3, ProxylessNAS or ResNet-50, such as " + ", ".join(_published_spaces())
        )
    return dict(pairs)


def _is_mobile(space: SearchSpace) -> bool:
    stem = [type(spec).__name__ for spec in space.stem]
    blocks = {stage.block for stage in space.stages}
    return stem == ["ConvSpec", "StageSpec"] and blocks == {"inverted"} and len(space.head) in (2, 3)


def _is_resnet(space: SearchSpace) -> bool:
    blocks = {stage.block for stage in space.stages}
    return space.has_elastic_stem and blocks == {"bottleneck"} and len(space.head) == 1


def _mobile_names(largest: NetworkPlan, is_wrapped: bool) -> Iterator[tuple[str, str]]:
    first, block_0 = largest.stem
    assert isinstance(first, ConvPlan)
    assert isinstance(block_0, InvertedPlan)
    yield from _conv_names(first, "first_conv", False)
    yield from _inverted_names(block_0, "blocks.0.conv", False)
    for index, block in enumerate(itertools.chain(*largest.stages), start=1):
        assert isinstance(block, InvertedPlan)
        yield from _inverted_names(block, f"blocks.{index}.conv", is_wrapped)
    convolutions = [piece for piece in largest.head if isinstance(piece, ConvPlan)]
    for conv, theirs in zip(convolutions[::-1], ("feature_mix_layer", "final_expand_layer"), strict=False):
        yield from _conv_names(conv, theirs, False)
    for part in ("weight", "bias"):
        yield f"classifier.{part}", f"classifier.linear.{part}"


def _resnet_names(largest: NetworkPlan, is_wrapped: bool) -> Iterator[tuple[str, str]]:
    for index, piece in enumerate(piece for piece in largest.stem if isinstance(piece, ConvPlan)):
        # The optional layer stands in a residual wrapper of its own.
        theirs = f"input_stem.{index}.conv" if piece.is_residual else f"input_stem.{index}"
        yield from _conv_names(piece, theirs, is_wrapped)
    for index, block in enumerate(itertools.chain(*largest.stages)):
        assert isinstance(block, BottleneckPlan)
        for conv, part in zip(block.convolutions(), ("conv1", "conv2", "conv3", "downsample"), strict=False):
            yield from _conv_names(conv, f"blocks.{index}.{part}", is_wrapped)
    for part in ("weight", "bias"):
        yield f"classifier.{part}", f"classifier.linear.{'linear.' if is_wrapped else ''}{part}"


def _inverted_names(block: InvertedPlan, theirs: str, is_wrapped: bool) -> Iterator[tuple[str, str]]:
    if block.expand:
        yield from _conv_names(block.expand, f"{theirs}.inverted_bottleneck", is_wrapped)
    yield from _conv_names(block.depthwise, f"{theirs}.depth_conv", is_wrapped)
    if is_wrapped:
        for larger, smaller in itertools.pairwise(block.elastic_kernels[::-1]):
            matrix = f"{theirs}.depth_conv.conv.{larger}to{smaller}_matrix"
            yield matrix_name(block.depthwise.name, larger, smaller), matrix
    if block.squeeze:
        for layer, part in itertools.product(("reduce", "expand"), ("weight", "bias")):
            yield f"{block.squeeze.name}.{layer}.{part}", f"{theirs}.depth_conv.se.fc.{layer}.{part}"
    yield from _conv_names(block.project, f"{theirs}.point_linear", is_wrapped)


def _conv_names(conv: ConvPlan, theirs: str, is_wrapped: bool) -> Iterator[tuple[str, str]]:
    yield f"{conv.name}.conv.weight", f"{theirs}.conv.{'conv.' if is_wrapped else ''}weight"
    if conv.has_norm:
        for part in PARTS:
            yield f"{conv.name}.norm.{part}", f"{theirs}.bn.{'bn.' if is_wrapped else ''}{part}"


def published_state(supernet: Supernet, *, naming: Naming = "supernet", is_old: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a supernet by their published names, for tools that read those.

    Args:
        supernet: of a space that is built as a published family.
        naming: ``static`` names the largest subnet as a plain network; the kernel matrices have no place there.
        is_old: whether to use the word of before November 2020.

    Raises:
        CheckpointError: the space is not built as a published family.
    """
    names = published_names(supernet.space, naming)
    state = {names[name]: tensor for name, tensor in supernet.tensors.items() if name in names}
    return {_old_name(name): tensor for name, tensor in state.items()} if is_old else state


def supernet_from_published(state: Mapping[str, Tensor], *, space: SearchSpace | None = None) -> Supernet:
    """Return the supernet that a published state dict holds, with as many classes as it has.

    A plain network as large as the largest subnet (a teacher) is read too; the kernel matrices that it lacks become
    identities. A supernet without any matrices crops its kernels.

    Args:
        state: tensors by published name, in either of the two namings.
        space: what the state should be of; recognised by its shapes when None.

    Raises:
        CheckpointError: a key is missing, unknown or of another shape, or no space fits; the message names it.
    """
    state = {_new_name(name): tensor for name, tensor in state.items()}
    fit = _recognise(state) if space is None else _Fit(space, state)
    try:
        fit.check()
    except CheckpointError as error:
        others = [other.space.name for other in _fits(state) if other.problem() is None]
        raise CheckpointError(f"{error}; these are weights of {others[0]}" if others else str(error)) from error
    tensors = {}
    for name, shape in supernet_shapes(fit.space, has_matrices=fit.has_matrices).items():
        theirs = fit.names.get(name)
        # A copy of its own: tensors of a pickle may share their memory, and sorting channels writes in place.
        tensor = torch.eye(shape[0]) if theirs is None else state[theirs].detach().clone().contiguous()
        tensors[name] = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
    return Supernet(fit.space, tensors)


class _Fit:
    """A state dict read as weights of one space: which naming, how many classes, and what does not fit."""

    def __init__(self, space: SearchSpace, state: Mapping[str, Tensor]) -> None:
        def known(names: dict[str, str]) -> int:
            return sum(theirs in state for theirs in names.values())

        wrapped, static = published_names(space, "supernet"), published_names(space, "static")
        is_static = known(static) > known(wrapped)
        self.names = static if is_static else wrapped
        self.has_matrices = is_static or any(name.endswith("_matrix") for name in state)
        self.found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        classes = self.found.get(self.names["classifier.bias"], ())
        self.space = dataclasses.replace(space, num_classes=classes[0]) if len(classes) == 1 and classes[0] else space
        shapes = supernet_shapes(self.space, has_matrices=self.has_matrices)
        self.expected = {self.names[name]: shape for name, shape in shapes.items() if name in self.names}

    def check(self) -> None:
        """Complain about the first key that does not fit."""
        check_shapes(self.space, self.expected, self.found)

    def problem(self) -> str | None:
        """Return what does not fit, or None."""
        try:
            self.check()
        except CheckpointError as error:
            return str(error)
        return None

    @property
    def num_matches(self) -> int:
        """How many tensors are what the space expects."""
        return sum(self.found.get(name) == shape for name, shape in self.expected.items())


def _fits(state: Mapping[str, Tensor]) -> list[_Fit]:
    return [_Fit(get_space(name), state) for name in _published_spaces()]


def _recognise(state: Mapping[str, Tensor]) -> _Fit:
    """Return the published space whose names and shapes these are."""
    best = max(_fits(state), key=lambda fit: fit.num_matches)
    if best.problem() is not None:
        closest = f"; the closest is {best.space.name}, but {best.problem()}" if best.num_matches else ""
        raise CheckpointError(
            f"the weights fit none of {', '.join(_published_spaces())}{closest}; name the space if it is your own"
        )
    return best


def _published_spaces() -> list[str]:
    return [name for name in space_names() if name.startswith("ofa-")]


def _new_name(name: str) -> str:
    # Training on several GPUs puts its wrapper's name before all others.
    return re.sub(rf"^(blocks\.\d+)\.{OLD_WORD}\.", r"\1.conv.", name.removeprefix("module."))


def _old_name(name: str) -> str:
    return re.sub(r"^(blocks\.\d+)\.conv\.", rf"\1.{OLD_WORD}.", name)
