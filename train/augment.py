"""Random changes of whole batches in memory, drawn for each image on its own.

Relies on the draws coming from a generator that is handed in, so that a resumed run sees the same images.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def random_affine(x_NCHW: Tensor, draws: torch.Generator, *, degrees: float, shift: float, scale: float) -> Tensor:
    """Return each image rotated, shifted and scaled at random on its own; what comes in from outside is 0.

    torchvision's transforms draw once for a whole batch, or want one image at a time; this draws per image in one call.

    Args:
        x_NCHW: float images.
        draws: source of randomness.
        degrees: largest rotation.
        shift: largest shift, in pixels.
        scale: largest change of size, as a share.
    """
    count, size = x_NCHW.shape[0], x_NCHW.shape[-1]
    angle, dx, dy, zoom = (torch.rand(4, count, generator=draws) * 2 - 1).unbind()
    angle, zoom = angle * (degrees * torch.pi / 180), 1 + zoom * scale
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    step = 2 * shift / size
    theta_N23 = torch.stack([torch.stack([cos, -sin, dx * step], 1), torch.stack([sin, cos, dy * step], 1)], 1)
    grid = F.affine_grid(theta_N23.to(x_NCHW.device), list(x_NCHW.shape), align_corners=False)
    return F.grid_sample(x_NCHW, grid, align_corners=False)
