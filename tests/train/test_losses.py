"""The losses are what the method says they are."""

from __future__ import annotations

import torch

from deps.train.losses import distill_loss, label_loss


def test_distillation_is_cross_entropy_against_the_teachers_softmax():
    """Written out by hand, with the temperature's square."""
    student, teacher, t = torch.randn(5, 7), torch.randn(5, 7), 3.0
    soft, log = torch.softmax(teacher / t, 1), torch.log_softmax(student / t, 1)
    torch.testing.assert_close(distill_loss(student, teacher, temperature=t), -(soft * log).sum(1).mean() * t * t)


def test_no_gradient_reaches_the_teacher():
    """The full model learns from labels alone."""
    student, teacher = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    distill_loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_label_smoothing_spreads_its_share_over_all_classes():
    """As in the published recipes."""
    logits, labels = torch.randn(5, 7), torch.arange(5)
    log = torch.log_softmax(logits, 1)
    by_hand = -(0.9 * log[torch.arange(5), labels] + 0.1 * log.mean(1)).mean()
    torch.testing.assert_close(label_loss(logits, labels, smoothing=0.1), by_hand)
