"""The best classes of an image: their shares, and their order where they are alike."""

from __future__ import annotations

import numpy as np
import pytest

from deps.serve.answers import classification
from deps.serve.ranking import top_classes

LABELS = tuple(f"class {index}" for index in range(1000))


def test_equal_classes_come_in_the_order_of_the_labels():
    """A thousand classes, as ImageNet has: with fewer, any way of sorting keeps the order."""
    logits_V = np.tile(np.float32([1, 0, 1, 2]), 250)
    best = [entry.index for entry in top_classes(logits_V, LABELS, 1000)]
    expected = [index for value in (2, 1, 0) for index in range(1000) if logits_V[index] == value]
    assert best == expected
    assert [int(text.split(":")[1]) for text in classification(logits_V[None], 1000, LABELS)] == expected


def test_shares_are_those_of_softmax_also_of_large_logits():
    """Exponents of 500 would overflow."""
    found = top_classes(np.array([500.0, 499.0, -500.0], np.float32), LABELS, 3)
    assert [entry.label for entry in found] == ["class 0", "class 1", "class 2"]
    assert [entry.score for entry in found] == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0.0])
