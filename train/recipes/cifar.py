"""CIFAR-10 and CIFAR-100, 32 x 32 pixels, 50,000 images to train on and 10,000 to report on.

Published (DεpS, ECCV 2024): 200 epochs, a cosine from 0.1, batches of 128, random crops with 4 pixels of reflected
padding, flips, the strides of the spaces, kernels fixed at 7, SGD with Nesterov momentum 0.9, label smoothing and
dropout of 0.1, shrinking after about half of the epochs with a ramp of 5.
Ours, since it is not stated: weight decay 3e-5, as for ImageNet; ProxylessNAS and ResNet-50
are trained alike; 5,000 training images are held out, stratified, so that no choice is made with test images.
"""

from __future__ import annotations

from dataclasses import replace

from deps.train.augmentation import SMALL
from deps.train.recipe import Recipe


def cifar10() -> Recipe:
    """CIFAR-10, MobileNetV3."""
    return Recipe(
        name="cifar10",
        dataset="cifar10",
        space="cifar-mbv3",
        kernels=(7,),
        epochs=200,
        batch_size=128,
        lr=0.1,
        weight_decay=3e-5,
        # As published code starts; nobody here has trained for so long with fan-in, which is better for a few epochs.
        initial="fan-out",
        validation_images=5000,
        augment=SMALL,
    )


def cifar10_proxyless() -> Recipe:
    """CIFAR-10, ProxylessNAS."""
    return replace(cifar10(), name="cifar10-proxyless", space="cifar-proxyless")


def cifar10_resnet50() -> Recipe:
    """CIFAR-10, ResNet-50 with elastic widths."""
    return replace(cifar10(), name="cifar10-resnet50", space="cifar-resnet50", kernels=())


def cifar10_narrow() -> Recipe:
    """CIFAR-10, a narrow MobileNetV3 of 3 to 14 million multiply-adds, in 20 epochs; for a study on a processor.

    Ours throughout. A ramp of five epochs would be half of the shrinking.
    """
    return replace(
        cifar10(),
        name="cifar10-narrow",
        space="cifar-mbv3-narrow",
        kernels=(),
        epochs=20,
        epsilon_ramp=1.0,
        # Trainings as short as this learn much more from it: docs/decisions/0017-initial-weights.md.
        initial="fan-in",
        # A step takes about three quarters of the time on a processor, since its maps are large and its channels few.
        layout="channels-last",
    )


def cifar10_tiny() -> Recipe:
    """CIFAR-10, a tiny MobileNetV3 of 1.2 to 4 million multiply-adds, in 8 epochs; to compare many trainings."""
    return replace(cifar10_narrow(), name="cifar10-tiny", space="cifar-mbv3-tiny", epochs=8)


def cifar10_proxyless_tiny() -> Recipe:
    """CIFAR-10, a tiny ProxylessNAS, as cifar10-tiny."""
    return replace(
        cifar10_tiny(),
        name="cifar10-proxyless-tiny",
        space="cifar-proxyless-tiny",
        # Its classifier sees 640 normalised features and runs away at 0.1: docs/decisions/0019-classifier-rate.md.
        classifier_lr=1 / 16,
    )


def cifar10_proxyless_narrow() -> Recipe:
    """CIFAR-10, a narrow ProxylessNAS, as cifar10-narrow."""
    return replace(cifar10_narrow(), name="cifar10-proxyless-narrow", space="cifar-proxyless-narrow")


def cifar10_resnet50_narrow() -> Recipe:
    """CIFAR-10, a narrow ResNet-50 with elastic widths, as cifar10-narrow."""
    return replace(cifar10_narrow(), name="cifar10-resnet50-narrow", space="cifar-resnet50-narrow")


def cifar100() -> Recipe:
    """CIFAR-100, MobileNetV3."""
    return replace(cifar10(), name="cifar100", dataset="cifar100")


def cifar100_proxyless() -> Recipe:
    """CIFAR-100, ProxylessNAS."""
    return replace(cifar100(), name="cifar100-proxyless", space="cifar-proxyless")


def cifar100_resnet50() -> Recipe:
    """CIFAR-100, ResNet-50 with elastic widths."""
    return replace(cifar100(), name="cifar100-resnet50", space="cifar-resnet50", kernels=())
