"""Real digits, split once, seen in an order that depends on seeds alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deps.ground.errors import DataError
from deps.train.augment import random_affine
from deps.train.augmentation import Augmentation
from deps.train.datasets import load_data
from deps.train.draws import ImageDraws

DATA = load_data("digits")


def test_no_image_is_in_two_splits():
    """Accuracy on images that were trained on means nothing."""
    splits = (DATA.train, DATA.validation, DATA.test)
    assert [len(split) for split in splits] == [1197, 300, 300]
    keys = [bytes(image.numpy().tobytes()) for split in splits for image in split.pixels_NCHW]
    assert len(set(keys)) == len(keys) == 1797


def test_every_class_is_in_every_split():
    """Stratified."""
    for split in (DATA.train, DATA.validation, DATA.test):
        counts = torch.bincount(split.labels_N, minlength=10)
        assert counts.min() > 0.8 * counts.max()


def test_evaluation_batches_are_normalised_and_ordered():
    """Mean 0 and deviation 1 over the training images."""
    x = torch.cat([x for x, _ in DATA.train.batches(100)])
    labels = torch.cat([labels for _, labels in DATA.train.batches(100)])
    assert x.shape == (1197, 1, 8, 8)
    assert abs(float(x.mean())) < 1e-4
    assert float(x.std()) == pytest.approx(1, abs=1e-3)
    assert torch.equal(labels, DATA.train.labels_N)
    assert sum(len(labels) for _, labels in DATA.train.first(250).batches(100)) == 250


def test_an_epoch_sees_every_image_at_most_once():
    """Without replacement; what does not fill a batch waits for another order."""
    identity = replace(load_data("digits"), augmentation=Augmentation())
    seen = torch.cat([identity.training_batch(step, 64, seed=5)[0] for step in range(18)])
    assert len({bytes(image.numpy().tobytes()) for image in seen}) == 18 * 64


def test_a_batch_depends_on_seed_and_step_alone():
    """So a resumed run sees what the uninterrupted one would have seen."""
    first, again = DATA.training_batch(20, 64, seed=1), load_data("digits").training_batch(20, 64, seed=1)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], DATA.training_batch(20, 64, seed=2)[0])
    assert not torch.equal(first[0], DATA.training_batch(21, 64, seed=1)[0])


def test_augmentation_of_size_zero_changes_nothing():
    """The affine grid is aligned with the pixels."""
    pixels = DATA.train.pixels_NCHW[:32].float()
    same = random_affine(pixels, ImageDraws(0, torch.arange(32)), degrees=0, shift=0, scale=0)
    torch.testing.assert_close(same, pixels, rtol=0, atol=1e-3)


def test_each_image_is_augmented_on_its_own():
    """One draw for a whole batch would be a weaker augmentation."""
    pixels = DATA.train.pixels_NCHW[:1].float().expand(16, -1, -1, -1)
    varied = random_affine(pixels, ImageDraws(0, torch.arange(16)), degrees=12, shift=1, scale=0.1)
    assert len({bytes(image.numpy().tobytes()) for image in varied}) == 16


def test_calibration_draws_the_same_training_images_each_time():
    """Two measurements of one subnet must agree."""
    first, again = (list(DATA.calibration(images=250)) for _ in range(2))
    assert [len(batch) for batch in first] == [100, 100, 50]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_other_resolutions_are_scaled():
    """Elastic resolution lives in the data."""
    assert next(DATA.test.batches(4, resolution=12))[0].shape == (4, 1, 12, 12)


def test_errors_name_what_is_known():
    """A person who mistypes gets the list; a batch that is too large gets the way out."""
    with pytest.raises(DataError, match="known: digits"):
        load_data("mnist")
    with pytest.raises(DataError, match="--batch-size"):
        load_data("digits", train_images=10).steps_per_epoch(64)


@pytest.mark.parametrize("augmentation", [Augmentation(rotate=12, erasing=0.5), Augmentation(mixup=0.4, cutmix=1.0)])
def test_shards_of_a_batch_are_the_batch_in_pieces(augmentation: Augmentation):
    """So N processes train on what one would have trained on, mixed neighbours and all."""
    data = replace(DATA, augmentation=augmentation)
    for step in (0, 20):
        whole = data.training_batch(step, 48, seed=3)
        shards = [data.training_batch(step, 48, seed=3, shard=(rank, 4)) for rank in range(4)]
        for part, pieces in zip(whole, zip(*shards, strict=True), strict=True):
            assert torch.equal(part, torch.cat(pieces))


def test_a_batch_that_cannot_be_shared_out_is_refused():
    """Ranks with unlike shares would weigh images unlike; a pair must not be torn apart."""
    with pytest.raises(DataError, match="multiple of 5"):
        DATA.training_batch(0, 64, seed=0, shard=(0, 5))
    with pytest.raises(DataError, match="multiple of 8, since neighbours"):
        replace(DATA, augmentation=Augmentation(mixup=1.0)).training_batch(0, 20, seed=0, shard=(0, 4))


def test_labels_out_of_range_are_refused():
    """Said before the first epoch, not by a loss function in the middle of it."""
    for label in (10, -1):
        labels = DATA.train.labels_N.clone()
        labels[5] = label
        with pytest.raises(DataError, match="expected 0 to 9, one for each of its 10 classes"):
            replace(DATA, train=replace(DATA.train, labels_N=labels))  # type: ignore[type-var]


def test_a_stream_yields_what_single_steps_yield():
    """The loop takes the stream, which prepares ahead; a resumed run starts it in the middle."""
    stream = DATA.training_stream(range(17, 21), 64, seed=2, resolution=lambda step: 8 + step % 2)
    for step, (x, labels) in zip(range(17, 21), stream, strict=True):
        again = DATA.training_batch(step, 64, seed=2, resolution=8 + step % 2)
        assert torch.equal(x, again[0])
        assert torch.equal(labels, again[1])
