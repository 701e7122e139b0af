"""A person's own folders of pictures at 224 pixels; classes and statistics come from the pictures.

Ours throughout: the settings of ImageNet, with milder augmentation and a batch that one GPU holds. Most people will
begin from a trained supernet (``--finetune-from``), which shortens the training and lowers the learning rate.
"""

from __future__ import annotations

from dataclasses import replace

from deps.train.augmentation import PHOTOS
from deps.train.recipe import Recipe


def imagefolder() -> Recipe:
    """Your own folders of pictures, MobileNetV3."""
    return Recipe(
        name="imagefolder",
        dataset="imagefolder",
        space="ofa-mbv3-w1.0",
        resolutions=(224,),
        epochs=120,
        batch_size=64,
        lr=0.05,
        lr_warmup=2,
        weight_decay=3e-5,
        # One odd picture in a small batch must not undo an epoch.
        clip_gradient=5.0,
        augment=PHOTOS,
    )


def imagefolder_proxyless() -> Recipe:
    """Your own folders of pictures, ProxylessNAS."""
    return replace(imagefolder(), name="imagefolder-proxyless", space="ofa-proxyless-w1.3")


def imagefolder_resnet50() -> Recipe:
    """Your own folders of pictures, ResNet-50 with elastic widths."""
    return replace(imagefolder(), name="imagefolder-resnet50", space="ofa-resnet50")
