"""The plan of one subnet: every layer it has, with channels, kernel, stride and feature size, as data.

The one source for all that must agree: the plain network, the slicing rule, the counts, the latency keys and the ONNX
graph are each made from it. Relies on ``space.py`` and ``arch.py``; no torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from deps.supernet.arch import ArchSpec
from deps.supernet.space import Activation, ConvSpec, PoolSpec, SearchSpace, StageSpec, feature_size, round_channels

CLASSIFIER = "classifier"
"""Name of the classifier; its tensors are ``classifier.weight`` and ``classifier.bias``."""


@dataclass(frozen=True, slots=True)
class ConvPlan:
    """A convolution, its BatchNorm and its activation; padding is ``kernel // 2``."""

    name: str
    """Prefix of its parameters, e.g. ``stages.2.1.expand``."""

    channels_in: int
    channels_out: int
    kernel: int
    stride: int
    groups: int
    has_norm: bool
    activation: Activation | None
    size_in: int
    """Side of the input's feature map, in pixels."""

    is_residual: bool = False
    """Whether the input is added to the output."""

    @property
    def size_out(self) -> int:
        """Side of the output's feature map, in pixels."""
        return feature_size(self.size_in, self.stride)

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self.size_out**2 * self.channels_out * (self.channels_in // self.groups) * self.kernel**2

    @property
    def params(self) -> int:
        """Trained numbers, BatchNorm's scale and shift included."""
        weight = self.channels_out * (self.channels_in // self.groups) * self.kernel**2
        return weight + (2 * self.channels_out if self.has_norm else 0)

    @property
    def elements_in(self) -> int:
        """Numbers in the input of one image."""
        return self.channels_in * self.size_in**2

    @property
    def elements_out(self) -> int:
        """Numbers in the output of one image."""
        return self.channels_out * self.size_out**2

    @property
    def peak_elements(self) -> int:
        """Numbers that live at once while this layer runs; a residual needs nothing more than its input."""
        return self.elements_in + self.elements_out

    @property
    def key(self) -> str:
        """What a latency table calls this layer."""
        groups = f" g{self.groups}" if self.groups > 1 else ""
        norm = "" if self.has_norm else " bare"
        residual = " +" if self.is_residual else ""
        shape = f"{self.channels_in}>{self.channels_out} k{self.kernel} s{self.stride}"
        return f"conv {shape}{groups} {self.activation or 'linear'}{norm}{residual} @{self.size_in}"

    def convolutions(self) -> Iterator[ConvPlan]:
        """Yield itself."""
        yield self


@dataclass(frozen=True, slots=True)
class SqueezePlan:
    """A squeeze-excite: mean over the map, two 1 x 1 convolutions with bias, and a gate."""

    name: str
    channels: int
    hidden: int

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return 2 * self.channels * self.hidden

    @property
    def params(self) -> int:
        """Trained numbers."""
        return 2 * self.channels * self.hidden + self.channels + self.hidden


@dataclass(frozen=True, slots=True)
class InvertedPlan:
    """An inverted bottleneck: expand, depthwise, squeeze-excite, project, and the input added where shapes agree."""

    name: str
    expand: ConvPlan | None
    depthwise: ConvPlan
    squeeze: SqueezePlan | None
    project: ConvPlan
    has_shortcut: bool
    elastic_kernels: tuple[int, ...]
    """The kernel choices of its stage, ascending; one means that nothing is shared."""

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return sum(conv.macs for conv in self.convolutions()) + (self.squeeze.macs if self.squeeze else 0)

    @property
    def params(self) -> int:
        """Trained numbers."""
        return sum(conv.params for conv in self.convolutions()) + (self.squeeze.params if self.squeeze else 0)

    @property
    def peak_elements(self) -> int:
        """Numbers that live at once: a layer's input and output, and the kept input where it is added at the end."""
        kept = (self.expand or self.depthwise).elements_in if self.has_shortcut else 0
        peaks = [self.depthwise.elements_in + self.depthwise.elements_out + (kept if self.expand else 0)]
        if self.expand:
            peaks.append(self.expand.elements_in + self.expand.elements_out)
        if self.squeeze:
            # The map is read once for its mean, then scaled into a new map.
            peaks.append(2 * self.depthwise.elements_out + kept)
        peaks.append(self.project.elements_in + self.project.elements_out + kept)
        return max(peaks)

    @property
    def key(self) -> str:
        """What a latency table calls this block."""
        depthwise = self.depthwise
        first = (self.expand or depthwise).channels_in
        middle = f">{depthwise.channels_out}" if self.expand else ""
        squeeze = f" se{self.squeeze.hidden}" if self.squeeze else ""
        shortcut = " +" if self.has_shortcut else ""
        shape = f"{first}{middle}>{self.project.channels_out} k{depthwise.kernel} s{depthwise.stride}"
        return f"inverted {shape} {depthwise.activation}{squeeze}{shortcut} @{depthwise.size_in}"

    def convolutions(self) -> Iterator[ConvPlan]:
        """Yield its convolutions in the order of the data's flow."""
        if self.expand:
            yield self.expand
        yield self.depthwise
        yield self.project


@dataclass(frozen=True, slots=True)
class BottleneckPlan:
    """A ResNet-D bottleneck; its shortcut averages, then projects, where the shape changes."""

    name: str
    reduce: ConvPlan
    spatial: ConvPlan
    restore: ConvPlan
    shortcut: ConvPlan | None
    """The projection of the shortcut; it runs on the already averaged map."""

    pool: int
    """Window and stride of the average before the projection; 1 means none."""

    activation: Activation

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return sum(conv.macs for conv in self.convolutions())

    @property
    def params(self) -> int:
        """Trained numbers."""
        return sum(conv.params for conv in self.convolutions())

    @property
    def peak_elements(self) -> int:
        """Numbers that live at once: a layer's input and output, and the kept input or its projection."""
        kept = self.reduce.elements_in
        return max(
            self.reduce.elements_in + self.reduce.elements_out,
            kept + self.spatial.elements_in + self.spatial.elements_out,
            kept + self.restore.elements_in + self.restore.elements_out,
            (kept + self.shortcut.elements_in + self.shortcut.elements_out + self.restore.elements_out)
            if self.shortcut
            else 0,
        )

    @property
    def key(self) -> str:
        """What a latency table calls this block."""
        shape = f"{self.reduce.channels_in}>{self.spatial.channels_out}>{self.restore.channels_out}"
        projection = " projected" if self.shortcut else " +"
        return f"bottleneck {shape} s{self.spatial.stride} {self.activation}{projection} @{self.reduce.size_in}"

    def convolutions(self) -> Iterator[ConvPlan]:
        """Yield its convolutions; the shortcut's comes last."""
        yield self.reduce
        yield self.spatial
        yield self.restore
        if self.shortcut:
            yield self.shortcut


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """A pooling step."""

    name: str
    kind: str
    channels: int
    size_in: int

    macs = 0
    params = 0

    @property
    def size_out(self) -> int:
        """Side of the output's feature map, in pixels."""
        return 1 if self.kind == "mean" else feature_size(self.size_in, 2)

    @property
    def peak_elements(self) -> int:
        """Numbers that live at once."""
        return self.channels * (self.size_in**2 + self.size_out**2)

    @property
    def key(self) -> str:
        """What a latency table calls this step."""
        return f"pool {self.kind} {self.channels} @{self.size_in}"

    def convolutions(self) -> Iterator[ConvPlan]:
        """Yield nothing."""
        yield from ()


@dataclass(frozen=True, slots=True)
class LinearPlan:
    """The classifier."""

    name: str
    features_in: int
    features_out: int

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self.features_in * self.features_out

    @property
    def params(self) -> int:
        """Trained numbers."""
        return self.features_out * (self.features_in + 1)

    @property
    def peak_elements(self) -> int:
        """Numbers that live at once."""
        return self.features_in + self.features_out

    @property
    def key(self) -> str:
        """What a latency table calls this layer."""
        return f"linear {self.features_in}>{self.features_out}"

    def convolutions(self) -> Iterator[ConvPlan]:
        """Yield nothing."""
        yield from ()


Piece: TypeAlias = ConvPlan | InvertedPlan | BottleneckPlan | PoolPlan | LinearPlan
"""What a network is a chain of, and what a latency table has entries for."""


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


def input_shape(piece: Piece) -> tuple[int, int, int]:
    """Return channels, height and width of what a piece reads of one image."""
    if isinstance(piece, LinearPlan):
        return piece.features_in, 1, 1
    if isinstance(piece, PoolPlan):
        return piece.channels, piece.size_in, piece.size_in
    first = next(iter(piece.convolutions()))
    return first.channels_in, first.size_in, first.size_in


def output_shape(piece: Piece) -> tuple[int, int, int]:
    """Return channels, height and width of what a piece gives for one image."""
    if isinstance(piece, LinearPlan):
        return piece.features_out, 1, 1
    if isinstance(piece, PoolPlan):
        return piece.channels, piece.size_out, piece.size_out
    if isinstance(piece, InvertedPlan):
        piece = piece.project
    elif isinstance(piece, BottleneckPlan):
        piece = piece.restore
    return piece.channels_out, piece.size_out, piece.size_out


def output_elements(piece: Piece) -> int:
    """Return how many numbers a piece gives for one image."""
    return math.prod(output_shape(piece))


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
