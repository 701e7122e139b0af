"""The pieces that a subnet is a chain of, as data: channels, kernel, stride, feature size, and what follows from them.

Multiply-adds, parameters, memory and the name in a latency table are each counted here and nowhere else. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from deps.supernet.space import Activation, feature_size


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
