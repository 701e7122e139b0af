"""The losses: smoothed labels for the full model, a teacher's soft labels for the subnets.

Relies on logits of shape (N, classes); each loss is a mean over the images.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def label_loss(logits_NV: Tensor, labels_N: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy against labels, of which a share ``smoothing`` is spread over all classes."""
    return F.cross_entropy(logits_NV, labels_N, label_smoothing=smoothing)


def distill_loss(logits_NV: Tensor, teacher_logits_NV: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the cross-entropy against the teacher's softmax; no gradient reaches the teacher.

    Args:
        logits_NV: the student's.
        teacher_logits_NV: the teacher's, for the same images.
        temperature: divides both; the result is multiplied by its square, so that gradients keep their size.

    Source: in-place distillation of BigNAS and DεpS.
    """
    soft_NV = torch.softmax(teacher_logits_NV.detach() / temperature, dim=1)
    return F.cross_entropy(logits_NV / temperature, soft_NV) * temperature**2
