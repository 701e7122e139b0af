"""Mixed images and labels agree with each other, and with torchvision."""

from __future__ import annotations

import torch
from torchvision.transforms.v2 import MixUp

from deps.train.augmentation import Augmentation
from deps.train.losses import label_loss, main_labels
from deps.train.mixing import Mixing, cut_boxes, draw_mixing, mixed

X = torch.rand(6, 3, 10, 14, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def test_mixup_is_torchvisions_where_it_pairs_alike():
    """torchvision blends each image with the one before it; of a pair, that is its neighbour."""
    shares = torch.tensor([0.3, 0.5, 0.9])
    images, labels = mixed(X, LABELS, Mixing("mixup", shares, torch.zeros(3, 2)), 5)
    for pair, share in enumerate(shares):
        rows = slice(2 * pair, 2 * pair + 2)
        params = {"lam": float(share), "labels": LABELS[rows], "batch_size": 2}
        torch.testing.assert_close(images[rows], MixUp().transform(X[rows], params))
        torch.testing.assert_close(labels[rows], MixUp(num_classes=5).transform(params["labels"], params))


def test_cutmix_exchanges_a_rectangle_and_weighs_labels_by_its_area():
    """Also where the rectangle was cut off at the border."""
    mixing = draw_mixing(Augmentation(cutmix=1.0), 6, (0, 5, 3))
    images, labels = mixed(X, LABELS, mixing, 5)
    boxes = cut_boxes(mixing, 10, 14)
    for n in range(6):
        inside = boxes[n // 2]
        assert torch.equal(images[n][:, inside], X[n ^ 1][:, inside])
        assert torch.equal(images[n][:, ~inside], X[n][:, ~inside])
        share = float(inside.float().mean())
        expected = torch.zeros(5)
        expected[LABELS[n]] += 1 - share
        expected[LABELS[n ^ 1]] += share
        torch.testing.assert_close(labels[n], expected)


def test_rectangles_are_torchvisions():
    """The side is √(1 - λ) of the image's, around the centre, cut off at the border."""
    mixing = Mixing("cutmix", torch.tensor([0.4]), torch.tensor([[0.2, 0.8]]))
    row, column, half = 2, 11, 0.5 * (1 - 0.4) ** 0.5
    y1, y2 = max(row - int(half * 10), 0), min(row + int(half * 10), 10)
    x1, x2 = max(column - int(half * 14), 0), min(column + int(half * 14), 14)
    inside = torch.zeros(10, 14, dtype=torch.bool)
    inside[y1:y2, x1:x2] = True
    assert torch.equal(cut_boxes(mixing, 10, 14)[0], inside)


def test_each_batch_takes_one_of_two_kinds():
    """A fair coin, drawn from (seed, step)."""
    both = Augmentation(mixup=0.2, cutmix=1.0)
    kinds = [draw_mixing(both, 4, (0, 5, step)).kind for step in range(200)]
    assert 70 < kinds.count("cutmix") < 130
    assert kinds == [draw_mixing(both, 4, (0, 5, step)).kind for step in range(200)]


def test_a_last_image_without_a_neighbour_stays():
    """A batch of seven has three pairs."""
    x = torch.cat([X, X[:1]])
    images, labels = mixed(x, torch.cat([LABELS, LABELS[:1]]), draw_mixing(Augmentation(mixup=1.0), 7, (1,)), 5)
    assert torch.equal(images[6], x[6])
    assert labels[6].tolist() == [1, 0, 0, 0, 0]


def test_soft_labels_are_a_weighted_sum_of_losses():
    """Cross-entropy is linear in the label, smoothed or not."""
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(2))
    soft = torch.tensor([[0.7, 0.3, 0, 0, 0], [0, 0, 1.0, 0, 0]])
    for smoothing in (0.0, 0.1):
        each = [label_loss(logits[:1], torch.tensor([c]), smoothing=smoothing) for c in (0, 1)]
        expected = (0.7 * each[0] + 0.3 * each[1] + label_loss(logits[1:], torch.tensor([2]), smoothing=smoothing)) / 2
        torch.testing.assert_close(label_loss(logits, soft, smoothing=smoothing), expected)
    assert main_labels(soft).tolist() == [0, 2]
    assert main_labels(torch.tensor([3, 1])).tolist() == [3, 1]
