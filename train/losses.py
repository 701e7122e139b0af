"""The losses: smoothed labels for the full model, a teacher's soft labels for the subnets.

Relies on logits of shape (N, classes); each loss is a mean over the images. Labels are classes, shape (N,), or, where
images were mixed, shares of classes, shape (N, classes).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def label_loss(logits_NV: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy against labels, of which a share ``smoothing`` is spread over all classes.

    Args:
        logits_NV: the network's.
        labels: classes (N,), or shares of classes (N, V).
        smoothing: between 0 and 1.
    """
    return F.cross_entropy(logits_NV, labels, label_smoothing=smoothing)


def main_labels(labels: Tensor) -> Tensor:
    """Return the class that has the largest share of each image, shape (N,)."""
    return labels.argmax(1) if labels.dim() == 2 else labels


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
