"""How much memory a subnet needs: its feature maps while it runs, and its weights once they are shipped.

Relies on ``plan.py``: the peak of a net is that of its hungriest piece, since pieces run one after another.
"""

from __future__ import annotations

from deps.supernet.pieces import InvertedPlan, LinearPlan, Piece
from deps.supernet.plan import NetworkPlan

FLOAT32_BYTES = 4


def piece_activation_bytes(piece: Piece) -> int:
    """Return the bytes of feature maps that live at once while ``piece`` runs, float32, one image."""
    return FLOAT32_BYTES * piece.peak_elements


def piece_weight_bytes(piece: Piece) -> int:
    """Return the bytes of the weights of ``piece`` as they are shipped in float32.

    BatchNorm is folded: each convolution that had one keeps its weight and one bias a channel.
    """
    weights = sum(conv.params - (conv.channels_out if conv.has_norm else 0) for conv in piece.convolutions())
    if isinstance(piece, InvertedPlan) and piece.squeeze:
        weights += piece.squeeze.params
    if isinstance(piece, LinearPlan):
        weights += piece.params
    return FLOAT32_BYTES * weights


def activation_bytes(subnet: NetworkPlan) -> int:
    """Return the peak of the memory for feature maps, float32, one image: the largest sum that lives at once."""
    return max(piece_activation_bytes(piece) for piece in subnet.pieces())


def weight_bytes(subnet: NetworkPlan) -> int:
    """Return the bytes of the shipped float32 weights, BatchNorm folded."""
    return sum(piece_weight_bytes(piece) for piece in subnet.pieces())
