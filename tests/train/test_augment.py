"""Whole batches are varied as torchvision would vary each image."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from deps.ground.errors import RecipeError
from deps.train.augment import crop_and_flip, erase, random_affine, vary
from deps.train.augmentation import POLICIES, SMALL, Augmentation
from deps.train.draws import ImageDraws
from deps.train.pictures import centred, varied

PIXELS = torch.randint(0, 256, (24, 3, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_crops_and_flips_are_torchvisions_exactly():
    """Reflected padding, a window, a mirror: the same bytes as three calls for each image."""
    generator = torch.Generator().manual_seed(1)
    tops, lefts = torch.randint(-4, 5, (2, len(PIXELS)), generator=generator)
    mirrored = torch.rand(len(PIXELS), generator=generator) < 0.5
    ours = crop_and_flip(PIXELS, tops_N=tops, lefts_N=lefts, mirrored_N=mirrored)
    padded = transforms.pad(PIXELS, [4], padding_mode="reflect")
    for image, result, top, left, flips in zip(padded, ours, tops, lefts, mirrored, strict=True):
        expected = transforms.crop(image, int(top) + 4, int(left) + 4, 12, 16)
        assert torch.equal(result, transforms.horizontal_flip(expected) if flips else expected)


def test_all_places_and_both_mirrors_are_drawn_alike():
    """Nine by nine windows, each about as often."""
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(16), indexing="ij")
    images = (16 * rows + columns).to(torch.uint8).expand(8100, 1, -1, -1)
    result = vary(images, SMALL, ImageDraws(0, torch.arange(8100)))
    # The pixel at row 5, column 8 stays within the picture, so it tells the window, and its neighbour the mirror.
    seen, direction = result[:, 0, 5, 8].long(), (result[:, 0, 5, 9] - result[:, 0, 5, 8]).long()
    assert set(direction.tolist()) == {1, -1}
    assert 0.46 < (direction == 1).float().mean() < 0.54
    counts = torch.unique(seen[direction == 1], return_counts=True)[1]
    assert len(counts) == 81
    assert counts.min() > 20
    assert counts.max() < 90


def test_affine_changes_agree_with_torchvision_inside_the_picture():
    """One rotation for all, drawn by us, done by both; borders are filled differently."""
    smooth = torch.nn.functional.interpolate(PIXELS[:8].float(), 24, mode="bilinear")
    draws = ImageDraws(3, torch.arange(8))
    ours = random_affine(smooth, draws, degrees=10, shift=0, scale=0)
    angles = (ImageDraws(3, torch.arange(8)).uniform(4)[0] * 2 - 1) * 10
    for image, result, angle in zip(smooth, ours, angles, strict=True):
        theirs = transforms.rotate(image, float(angle), interpolation=v2.InterpolationMode.BILINEAR)
        torch.testing.assert_close(result[:, 5:-5, 5:-5], theirs[:, 5:-5, 5:-5], rtol=0, atol=0.5)


def test_erased_rectangles_have_torchvisions_sizes():
    """As many pictures as asked for, and the same distribution of areas within five standard errors."""
    x = torch.ones(4000, 1, 32, 32)
    ours = 1 - erase(x, 0.25, ImageDraws(0, torch.arange(4000))).mean((1, 2, 3))
    touched = ours > 0
    assert abs(float(touched.float().mean()) - 0.25) < 0.035
    with torch.random.fork_rng():
        torch.manual_seed(0)
        once = v2.RandomErasing(p=1.0)
        theirs = 1 - torch.stack([once(image).mean() for image in x[:1000]])
    assert abs(float(ours[touched].mean() - theirs.mean())) < 0.02
    assert abs(float(ours[touched].std() - theirs.std())) < 0.02
    # Each is one rectangle: it fills its own bounding box.
    image = erase(x, 1.0, ImageDraws(1, torch.arange(4000)))[5, 0] == 0
    assert image.sum() == image.any(0).sum() * image.any(1).sum()


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_deterministic_and_leave_torchs_state(policy: str):
    """Each picture depends on its seed alone."""
    augmentation = Augmentation(crop_scale=0.3, flip=True, brightness=0.4, hue=0.1, policy=policy)  # type: ignore[arg-type]
    before = torch.get_rng_state()
    some = [varied(PIXELS[0], augmentation, 8, None, seed) for seed in range(6)]
    again = [varied(PIXELS[0], augmentation, 8, None, seed) for seed in range(6)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(some, again, strict=True))
    assert len({image.numpy().tobytes() for image in some}) == 6
    assert some[0].shape == (3, 8, 8)


def test_a_picture_is_varied_as_torchvisions_own_recipe_would():
    """The same seed, the same transforms, the same picture."""
    augmentation = Augmentation(crop_scale=0.08, flip=True, saturation=0.5, policy="autoaugment-imagenet")
    theirs = v2.Compose(
        [
            v2.RandomResizedCrop(10, scale=(0.08, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(saturation=0.5),
            v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
        ]
    )
    with torch.random.fork_rng():
        for seed in range(8):
            torch.manual_seed(seed)
            assert torch.equal(varied(PIXELS[1], augmentation, 10, None, seed), theirs(PIXELS[1]))


def test_nothing_asked_is_what_evaluation_sees():
    """Without a random crop, training takes evaluation's."""
    assert torch.equal(varied(PIXELS[0], Augmentation(), 8, 10, 0), centred(PIXELS[0], 8, 10))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"crop_scale": 1.5}, "crop_scale is 1.5"),
        ({"crop_scale": 0.1, "crop_padding": 4}, "one kind of crop"),
        ({"policy": "trivial"}, "one of none"),
        ({"hue": 0.6}, "at most 0.5"),
        ({"mixup": -1.0}, "0 or more"),
        ({"erasing": float("nan")}, "0 or more"),
        ({"randaugment_magnitude": 31}, "at most 30"),
        ({"zoom": 1.0}, "below 1"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, float | str], told: str):
    """Each with what was expected."""
    with pytest.raises(RecipeError, match=told):
        Augmentation(**change)  # type: ignore[arg-type]
