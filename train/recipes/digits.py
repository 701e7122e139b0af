"""The 1,797 handwritten digits that ship inside scikit-learn: real images, no download, about a minute on two cores."""

from __future__ import annotations

from deps.train.recipe import Recipe


def digits() -> Recipe:
    """Return the recipe for the ``digits`` space."""
    return Recipe(
        name="digits",
        dataset="digits",
        space="digits",
        epochs=24,
        batch_size=64,
        lr=0.1,
        weight_decay=1e-4,
        # Five epochs, as on ImageNet, would be a third of the shrinking; with two, validation images were named better.
        epsilon_ramp=2,
        calibration_images=1197,
        # Each operation on 8 x 8 pixels is too short to share between threads.
        threads=1,
    )
