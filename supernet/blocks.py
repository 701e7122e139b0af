"""The plain layers that every subnet is made of, each built from its plan; nothing here is elastic.

Relies on ``pieces.py`` for shapes. Names of parameters are the plan's: ``expand.conv.weight``, ``depthwise.norm.bias``.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deps.supernet.depthwise import DepthwiseConv2d
from deps.supernet.pieces import BottleneckPlan, ConvPlan, InvertedPlan, LinearPlan, Piece, PoolPlan, SqueezePlan
from deps.supernet.pointwise import PointwiseConv2d


def activation(name: str | None) -> nn.Module:
    """Return the activation called ``name``; None gives the identity."""
    if name is None:
        return nn.Identity()
    return {"relu": nn.ReLU, "relu6": nn.ReLU6, "hswish": nn.Hardswish}[name]()


class ConvNorm(nn.Module):
    """A convolution without bias, its BatchNorm, its activation, and the input added where the plan says so."""

    def __init__(self, plan: ConvPlan, eps: float, momentum: float) -> None:
        super().__init__()
        is_depthwise = plan.groups == plan.channels_in == plan.channels_out
        is_pointwise = plan.kernel == plan.stride == plan.groups == 1
        self.conv = (DepthwiseConv2d if is_depthwise else PointwiseConv2d if is_pointwise else nn.Conv2d)(
            plan.channels_in,
            plan.channels_out,
            plan.kernel,
            stride=plan.stride,
            padding=plan.kernel // 2,
            groups=plan.groups,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(plan.channels_out, eps=eps, momentum=momentum) if plan.has_norm else nn.Identity()
        self.act = activation(plan.activation)
        self.is_residual = plan.is_residual

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return a map of shape (N, channels_out, size_out, size_out)."""
        y = cast(Tensor, self.act(self.norm(self.conv(x_NCHW))))
        return y + x_NCHW if self.is_residual else y


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the means of all channels."""

    def __init__(self, plan: SqueezePlan) -> None:
        super().__init__()
        self.reduce = PointwiseConv2d(plan.channels, plan.hidden, 1)
        self.expand = PointwiseConv2d(plan.hidden, plan.channels, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the input, each channel multiplied by its gate in [0, 1]."""
        mean_NC11 = x_NCHW.mean((2, 3), keepdim=True)
        return x_NCHW * F.hardsigmoid(self.expand(F.relu(self.reduce(mean_NC11))))


class InvertedBlock(nn.Module):
    """Expand, depthwise, squeeze-excite, project, plus the input where shapes agree."""

    def __init__(self, plan: InvertedPlan, eps: float, momentum: float) -> None:
        super().__init__()
        self.expand = ConvNorm(plan.expand, eps, momentum) if plan.expand else nn.Identity()
        self.depthwise = ConvNorm(plan.depthwise, eps, momentum)
        self.squeeze = SqueezeExcite(plan.squeeze) if plan.squeeze else nn.Identity()
        self.project = ConvNorm(plan.project, eps, momentum)
        self.has_shortcut = plan.has_shortcut

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return a map of the block's width."""
        y = cast(Tensor, self.project(self.squeeze(self.depthwise(self.expand(x_NCHW)))))
        return y + x_NCHW if self.has_shortcut else y


class Bottleneck(nn.Module):
    """The ResNet-D bottleneck: the stride sits in the 3 x 3 convolution, and in an average before the projection."""

    def __init__(self, plan: BottleneckPlan, eps: float, momentum: float) -> None:
        super().__init__()
        self.reduce = ConvNorm(plan.reduce, eps, momentum)
        self.spatial = ConvNorm(plan.spatial, eps, momentum)
        self.restore = ConvNorm(plan.restore, eps, momentum)
        self.pool = nn.AvgPool2d(plan.pool, ceil_mode=True) if plan.shortcut and plan.pool > 1 else nn.Identity()
        self.shortcut = ConvNorm(plan.shortcut, eps, momentum) if plan.shortcut else nn.Identity()
        self.act = activation(plan.activation)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return a map of the block's width."""
        y = self.restore(self.spatial(self.reduce(x_NCHW)))
        return cast(Tensor, self.act(y + self.shortcut(self.pool(x_NCHW))))


class MeanPool(nn.Module):
    """Average each channel to one pixel."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return shape (N, C, 1, 1)."""
        return x_NCHW.mean((2, 3), keepdim=True)


class Classifier(nn.Linear):
    """A linear layer on one-pixel maps."""

    def forward(self, input: Tensor) -> Tensor:
        """Return logits of shape (N, classes) for maps of shape (N, C, 1, 1)."""
        return super().forward(torch.flatten(input, 1))


def module_of(piece: Piece, eps: float, momentum: float) -> nn.Module:
    """Return the plain module of one piece of a plan, freshly initialised."""
    if isinstance(piece, ConvPlan):
        return ConvNorm(piece, eps, momentum)
    if isinstance(piece, InvertedPlan):
        return InvertedBlock(piece, eps, momentum)
    if isinstance(piece, BottleneckPlan):
        return Bottleneck(piece, eps, momentum)
    if isinstance(piece, PoolPlan):
        return MeanPool() if piece.kind == "mean" else nn.MaxPool2d(3, stride=2, padding=1)
    assert isinstance(piece, LinearPlan)
    return Classifier(piece.features_in, piece.features_out)
