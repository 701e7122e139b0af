"""ImageNet-1k and ImageNet-100 at 224 pixels.

Published (DεpS, ECCV 2024), for MobileNetV3 on ImageNet-1k: 270 epochs, the full model alone until 150, a ramp of 5;
SGD with Nesterov momentum 0.9, a cosine from 0.1625 per GPU of 128 images on 16 GPUs, which is 2.6 for a batch of
2,048; weight decay 3e-5, none on BatchNorm and biases; label smoothing 0.1, dropout 0.1; random resized crops, flips,
colours as torchvision distorts them, AutoAugment, random erasing 0.2; kernels fixed at 7. ImageNet-100: 180 epochs.
Ours, since it is not stated: five epochs in which the learning rate rises, which a batch of 2,048 needs; for
ImageNet-100 a batch of 256 and the learning rate that goes with it, and half of the epochs for the full model; 10,000
training images held out for choices (2,000 of ImageNet-100), so that none is made with the images of val/, which
are reported on; ResNet-50 is trained as MobileNetV3 is, with the weight decay of ResNets.
The width of ProxylessNAS is 1.3, that of the published supernet.
"""

from __future__ import annotations

from dataclasses import replace

from deps.train.augmentation import Augmentation
from deps.train.recipe import Recipe

PUBLISHED = Augmentation(
    crop_scale=0.08,
    flip=True,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    policy="autoaugment-imagenet",
    erasing=0.2,
)


def imagenet() -> Recipe:
    """ImageNet-1k, MobileNetV3."""
    return Recipe(
        name="imagenet",
        dataset="imagenet",
        space="ofa-mbv3-w1.0",
        kernels=(7,),
        resolutions=(224,),
        epochs=270,
        batch_size=2048,
        lr=2.6,
        lr_warmup=5,
        weight_decay=3e-5,
        # As published code starts; nobody here has trained for so long with fan-in.
        initial="fan-out",
        warmup_fraction=150 / 270,
        validation_images=10_000,
        augment=PUBLISHED,
    )


def imagenet_proxyless() -> Recipe:
    """ImageNet-1k, ProxylessNAS."""
    return replace(imagenet(), name="imagenet-proxyless", space="ofa-proxyless-w1.3")


def imagenet_resnet50() -> Recipe:
    """ImageNet-1k, ResNet-50 with elastic widths."""
    return replace(imagenet(), name="imagenet-resnet50", space="ofa-resnet50", kernels=(), weight_decay=1e-4)


def imagenet100() -> Recipe:
    """A hundred classes of ImageNet, MobileNetV3."""
    return replace(
        imagenet(),
        name="imagenet100",
        dataset="imagenet100",
        epochs=180,
        batch_size=256,
        lr=0.325,
        warmup_fraction=0.5,
        validation_images=2000,
    )


def imagenet100_proxyless() -> Recipe:
    """A hundred classes of ImageNet, ProxylessNAS."""
    return replace(imagenet100(), name="imagenet100-proxyless", space="ofa-proxyless-w1.3")


def imagenet100_resnet50() -> Recipe:
    """A hundred classes of ImageNet, ResNet-50 with elastic widths."""
    return replace(imagenet100(), name="imagenet100-resnet50", space="ofa-resnet50", kernels=(), weight_decay=1e-4)
