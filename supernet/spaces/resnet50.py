"""The once-for-all ResNet-50 space (ResNet-D) and its relative for 32-pixel images.

Source: Cai et al., Once-for-All, ICLR 2020, and its published ResNet-50 supernet.
"""

from __future__ import annotations

from deps.supernet.space import ConvSpec, PoolSpec, SearchSpace, StageSpec, round_channels
from deps.supernet.spaces.mobilenetv3 import IMAGENET_RESOLUTIONS

WIDTH_MULTIPLIERS = (0.65, 0.8, 1.0)

STAGES = (
    # width at multiplier 1.0, smallest depth, stride
    (256, 2, 1),
    (512, 2, 2),
    (1024, 4, 2),
    (2048, 2, 2),
)


def scaled_widths(channels: float, divisor: int = 1) -> tuple[int, ...]:
    """Return the distinct widths that the multipliers give; two multipliers may give the same."""
    return tuple(
        sorted(
            {
                round_channels(round_channels(channels * m) // divisor if divisor > 1 else channels * m)
                for m in WIDTH_MULTIPLIERS
            }
        )
    )


def resnet50(
    name: str,
    *,
    width: float = 1.0,
    resolutions: tuple[int, ...] = IMAGENET_RESOLUTIONS,
    stem_stride: int = 2,
    for_small_images: bool = False,
    num_classes: int = 1000,
) -> SearchSpace:
    """Return the ResNet-50 space.

    Args:
        name: what users call it.
        width: multiplier of every width, beside those that are choices.
        resolutions: choices of the image's side, in pixels.
        stem_stride: stride of the first convolution.
        for_small_images: no max pool, as ResNets for CIFAR have it.
        num_classes: outputs of the classifier.
    """
    stem: tuple[ConvSpec | PoolSpec, ...] = (
        ConvSpec(widths=scaled_widths(64 * width, 2), kernel=3, stride=stem_stride, activation="relu"),
        ConvSpec(widths=(), kernel=3, activation="relu", is_optional=True),
        ConvSpec(widths=scaled_widths(64 * width), kernel=3, activation="relu"),
    )
    return SearchSpace(
        name=name,
        stem=stem if for_small_images else (*stem, PoolSpec(kind="max")),
        stages=tuple(
            StageSpec(
                block="bottleneck",
                widths=scaled_widths(channels * width),
                depths=(depth, depth + 1, depth + 2),
                expands=(0.2, 0.25, 0.35),
                stride=stride,
                activation="relu",
            )
            for channels, depth, stride in STAGES
        ),
        head=(PoolSpec(kind="mean"),),
        resolutions=resolutions,
        num_classes=num_classes,
    )


def spaces() -> tuple[SearchSpace, ...]:
    """Return the spaces of this family."""
    return (
        resnet50("ofa-resnet50"),
        resnet50("cifar-resnet50", resolutions=(32,), stem_stride=1, for_small_images=True, num_classes=10),
        # For a study on a processor, as cifar-mbv3-narrow.
        resnet50("cifar-resnet50-narrow", width=0.25, resolutions=(32,), for_small_images=True, num_classes=10),
    )
