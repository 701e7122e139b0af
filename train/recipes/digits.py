"""The 1,797 handwritten digits that ship inside scikit-learn: real images, no download, about a minute on two cores.

All of it is ours: no paper trains a supernet on 8 x 8 pixels.
"""

from __future__ import annotations

from dataclasses import replace

from deps.train.augmentation import DIGITS
from deps.train.recipe import Recipe


def digits() -> Recipe:
    """Handwritten digits of 8 x 8 pixels, MobileNetV3; a minute or two on a processor."""
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
        augment=DIGITS,
        # Each operation on 8 x 8 pixels is too short to share between threads.
        threads=1,
    )


def digits_proxyless() -> Recipe:
    """Handwritten digits of 8 x 8 pixels, ProxylessNAS."""
    return replace(digits(), name="digits-proxyless", space="digits-proxyless")


def digits_resnet50() -> Recipe:
    """Handwritten digits of 8 x 8 pixels, ResNet-50 with elastic widths."""
    return replace(digits(), name="digits-resnet50", space="digits-resnet50")
