"""Images that are read again are the same images, wherever they were kept."""

from __future__ import annotations

import pytest
import torch

from deps.extract.shelf import Shelf


@pytest.mark.parametrize(
    ("in_memory", "on_disk", "makings"),
    [(10**6, 10**6, 1), (0, 10**6, 1), (0, 0, 3)],
    ids=["memory", "disk", "neither"],
)
def test_every_reading_gives_the_same_batches(in_memory, on_disk, makings):
    """Recalibration must not depend on how many subnets were measured before."""
    draws = torch.Generator().manual_seed(0)
    batches = [(torch.randn(size, 3, 5, 5, generator=draws), torch.arange(size)) for size in (4, 4, 2)]
    made = []

    def make():
        made.append(1)
        yield from batches

    shelf = Shelf(make, 10 * 3 * 25 * 4, in_memory=in_memory, on_disk=on_disk)
    for _ in range(3):
        read = list(shelf)
        assert len(read) == 3
        for (x_NCHW, labels_N), (expected_NCHW, expected_N) in zip(read, batches, strict=True):
            torch.testing.assert_close(x_NCHW, expected_NCHW, rtol=0, atol=0)
            torch.testing.assert_close(labels_N, expected_N)
    assert len(made) == makings


def test_a_reading_that_was_broken_off_is_not_kept():
    """Half the images would be taken for all of them."""
    batches = [(torch.full((1, 1, 2, 2), float(i)), torch.tensor([i])) for i in range(3)]
    shelf = Shelf(lambda: iter(batches), 48, in_memory=0)
    for _ in zip(range(2), shelf, strict=False):
        pass
    for _ in range(2):
        assert [int(labels_N) for _, labels_N in shelf] == [0, 1, 2]
