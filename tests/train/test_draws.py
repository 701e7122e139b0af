"""Draws of an image are its own, uniform, and independent of each other."""

from __future__ import annotations

import numpy as np
import torch

from deps.train.draws import ImageDraws, key_of


def test_draws_are_those_of_the_image_whatever_batch_it_is_in():
    """A rank with half the batch, or a resumed run, sees the same."""
    whole, part = ImageDraws(7, torch.arange(100)), ImageDraws(7, torch.tensor([42, 3]))
    for count in (3, 1):
        assert torch.equal(whole.uniform(count)[:, [42, 3]], part.uniform(count))
    seeds = whole.seeds()
    assert [seeds[42], seeds[3]] == part.seeds()


def test_draws_are_uniform_and_uncorrelated():
    """Between images, between draws, and between keys; bounds are four standard errors."""
    images, bound = 20_000, 4 / 20_000**0.5
    draws = ImageDraws(key_of(0, 1, 5), torch.arange(images)).uniform(4).numpy()
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_allclose(draws.mean(1), 0.5, atol=bound * 12**-0.5)
    np.testing.assert_allclose(draws.var(1), 1 / 12, atol=bound * 180**-0.5)
    other = ImageDraws(key_of(0, 1, 6), torch.arange(images)).uniform(1).numpy()
    rows = np.concatenate([draws, other, draws[:1, np.r_[1:images, 0]]])
    assert np.abs(np.corrcoef(rows) - np.eye(6)).max() < bound


def test_the_numbers_are_those_of_splitmix64():
    """The first outputs for the seed 1234567 as its authors' code prints them, by the same two constants."""
    from deps.train.draws import GOLDEN, _mixed

    states = (np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * np.uint64(GOLDEN)).astype(np.uint64)
    assert _mixed(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
