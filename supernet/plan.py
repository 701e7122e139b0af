"""The plan of one subnet: every layer it has, with channels, kernel, stride and feature size, as data.

The one source for all that must agree: the plain network, the slicing rule, the counts, the latency keys and the ONNX
graph are each made from it. Relies on ``space.py``, ``arch.py`` and ``pieces.py``; no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from deps.supernet.arch import ArchSpec
from deps.supernet.pieces import (
    BottleneckPlan,
    ConvPlan,
    InvertedPlan,
    LinearPlan,
    Piece,
    PoolPlan,
    SqueezePlan,
    output_shape,
)
from deps.supernet.space import Activation, ConvSpec, PoolSpec, SearchSpace, StageSpec, feature_size, round_channels

CLASSIFIER = "classifier"
"""Name of the classifier; its tensors are ``classifier.weight`` and ``classifier.bias``."""


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """The chain of pieces of one subnet."""

    stem: tuple[Piece, ...]
    stages: tuple[tuple[InvertedPlan | BottleneckPlan, ...], ...]
    head: tuple[Piece, ...]
    classifier: LinearPlan
    in_channels: int
    resolution: int

    def pieces(self) -> Iterator[Piece]:
        """Yield every piece in the order of the data's flow."""
        yield from self.stem
        for stage in self.stages:
            yield from stage
        yield from self.head
        yield self.classifier


@functools.lru_cache(maxsize=1024)
def plan(space: SearchSpace, arch: ArchSpec) -> NetworkPlan:
    """Return the plan of one subnet.

    Raises:
        ArchError: ``arch`` is not of this space.
    """
    arch.check(space)
    widths, size, channels = _Widths(arch), arch.resolution, space.in_channels
    choices: tuple[int, ...] = (channels,)

    stem: list[Piece] = []
    for index, spec in enumerate(space.stem):
        if isinstance(spec, ConvSpec) and spec.is_optional and arch.depths[0] == space.depth_choices[0][0]:
            continue
        width = channels if isinstance(spec, PoolSpec) or not spec.widths else widths.take(spec.widths)
        piece = _stem_piece(spec, f"stem.{index}", channels, width, size)
        stem.append(piece)
        channels, size = width, _size_after(piece, size)
        if not isinstance(spec, PoolSpec) and spec.widths:
            choices = spec.widths

    stages = []
    for s, stage in enumerate(space.stages):
        width, blocks = widths.take(stage.widths), []
        for i in range(arch.depths[space.stage_depth_index(s)]):
            position = space.first_block[s] + i
            block = block_plan(
                stage,
                name=f"stages.{s}.{i}",
                channels_in=channels,
                channels_out=width,
                kernel=arch.kernels[position],
                expand=arch.expands[position],
                stride=stage.stride if i == 0 else 1,
                size=size,
                # Whether a shortcut has weights must not depend on the widths that one subnet happens to choose.
                is_projected=i == 0 and (stage.stride != 1 or not choices == stage.widths == (width,)),
            )
            blocks.append(block)
            channels, size = width, _size_after(block, size)
        stages.append(tuple(blocks))
        choices = stage.widths

    head: list[Piece] = []
    for index, head_spec in enumerate(space.head):
        width = channels if isinstance(head_spec, PoolSpec) else head_spec.widths[0]
        piece = _stem_piece(head_spec, f"head.{index}", channels, width, size)
        head.append(piece)
        channels, size = width, _size_after(piece, size)

    return NetworkPlan(
        stem=tuple(stem),
        stages=tuple(stages),
        head=tuple(head),
        classifier=LinearPlan(CLASSIFIER, channels, space.num_classes),
        in_channels=space.in_channels,
        resolution=arch.resolution,
    )


def block_plan(
    stage: StageSpec,
    *,
    name: str,
    channels_in: int,
    channels_out: int,
    kernel: int,
    expand: float,
    stride: int,
    size: int,
    is_projected: bool | None = None,
) -> InvertedPlan | BottleneckPlan:
    """Return the plan of one block of ``stage`` on a feature map of ``size`` pixels.

    ``is_projected`` says whether a bottleneck's shortcut has a convolution; None means where its shape changes.
    """
    middle = stage.middle(channels_in, channels_out, expand)
    act = stage.activation

    def conv(
        part: str, c_in: int, c_out: int, k: int, s: int, groups: int, activation: Activation | None, at: int
    ) -> ConvPlan:
        return ConvPlan(f"{name}.{part}", c_in, c_out, k, s, groups, True, activation, at)

    after = feature_size(size, stride)
    if stage.block == "bottleneck":
        if is_projected is None:
            is_projected = stride != 1 or channels_in != channels_out
        return BottleneckPlan(
            name=name,
            reduce=conv("reduce", channels_in, middle, 1, 1, 1, act, size),
            spatial=conv("spatial", middle, middle, kernel, stride, 1, act, size),
            restore=conv("restore", middle, channels_out, 1, 1, 1, None, after),
            shortcut=conv("shortcut", channels_in, channels_out, 1, 1, 1, None, after) if is_projected else None,
            pool=stride,
            activation=act,
        )
    return InvertedPlan(
        name=name,
        expand=conv("expand", channels_in, middle, 1, 1, 1, act, size) if stage.has_expand else None,
        depthwise=conv("depthwise", middle, middle, kernel, stride, middle, act, size),
        squeeze=SqueezePlan(f"{name}.squeeze", middle, round_channels(middle // 4)) if stage.squeeze_excite else None,
        project=conv("project", middle, channels_out, 1, 1, 1, None, after),
        has_shortcut=stride == 1 and channels_in == channels_out,
        elastic_kernels=stage.kernels,
    )


class _Widths:
    """Hands out the widths of an architecture where they vary, and the only choice elsewhere."""

    def __init__(self, arch: ArchSpec) -> None:
        self.chosen = iter(arch.widths)

    def take(self, choices: tuple[int, ...]) -> int:
        return choices[0] if len(choices) == 1 else next(self.chosen)


def _stem_piece(spec: ConvSpec | PoolSpec | StageSpec, name: str, channels: int, width: int, size: int) -> Piece:
    if isinstance(spec, PoolSpec):
        return PoolPlan(name, spec.kind, channels, size)
    if isinstance(spec, StageSpec):
        return block_plan(
            spec,
            name=name,
            channels_in=channels,
            channels_out=width,
            kernel=spec.kernels[0],
            expand=spec.expands[0],
            stride=spec.stride,
            size=size,
        )
    return ConvPlan(
        name,
        channels,
        width,
        spec.kernel,
        spec.stride,
        1,
        spec.norm,
        spec.activation,
        size,
        is_residual=spec.is_optional,
    )


def _size_after(piece: Piece, size: int) -> int:
    return size if isinstance(piece, LinearPlan) else output_shape(piece)[1]


def parameter_shapes(subnet: NetworkPlan) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in the state of the plain network, by name, in the order of the data's flow."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add_conv(conv: ConvPlan) -> None:
        shapes[f"{conv.name}.conv.weight"] = (
            conv.channels_out,
            conv.channels_in // conv.groups,
            conv.kernel,
            conv.kernel,
        )
        if conv.has_norm:
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{conv.name}.norm.{part}"] = (conv.channels_out,)
            shapes[f"{conv.name}.norm.num_batches_tracked"] = ()

    for piece in subnet.pieces():
        for conv in piece.convolutions():
            add_conv(conv)
        if isinstance(piece, InvertedPlan) and piece.squeeze:
            squeeze = piece.squeeze
            shapes[f"{squeeze.name}.reduce.weight"] = (squeeze.hidden, squeeze.channels, 1, 1)
            shapes[f"{squeeze.name}.reduce.bias"] = (squeeze.hidden,)
            shapes[f"{squeeze.name}.expand.weight"] = (squeeze.channels, squeeze.hidden, 1, 1)
            shapes[f"{squeeze.name}.expand.bias"] = (squeeze.channels,)
        if isinstance(piece, LinearPlan):
            shapes[f"{piece.name}.weight"] = (piece.features_out, piece.features_in)
            shapes[f"{piece.name}.bias"] = (piece.features_out,)
    return shapes
