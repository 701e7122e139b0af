"""The once-for-all ProxylessNAS spaces and their relative for 32-pixel images.

Source: Cai et al., Once-for-All, ICLR 2020; BatchNorm's eps is 1e-3 here and 1e-5 elsewhere.
"""

from __future__ import annotations

from deps.supernet.space import ConvSpec, PoolSpec, SearchSpace, StageSpec, round_channels
from deps.supernet.spaces.mobilenetv3 import IMAGENET_RESOLUTIONS

STAGES = (
    # width, stride, depths
    (24, 2, (2, 3, 4)),
    (40, 2, (2, 3, 4)),
    (80, 2, (2, 3, 4)),
    (96, 1, (2, 3, 4)),
    (192, 2, (2, 3, 4)),
    (320, 1, (1,)),
)


def proxyless(
    name: str,
    *,
    width: float,
    resolutions: tuple[int, ...] = IMAGENET_RESOLUTIONS,
    stem_stride: int = 2,
    first_stage_stride: int = 2,
    kernels: tuple[int, ...] = (3, 5, 7),
    num_classes: int = 1000,
) -> SearchSpace:
    """Return the ProxylessNAS space whose channels are multiplied by ``width``; 1.3 is published.

    Args:
        name: what users call it.
        width: multiplier of every width.
        resolutions: choices of the image's side, in pixels.
        stem_stride: stride of the first convolution.
        first_stage_stride: stride of the first elastic stage.
        kernels: choices of the kernel size of each block.
        num_classes: outputs of the classifier.
    """

    def scaled(channels: int) -> tuple[int]:
        return (round_channels(channels * width),)

    strides = [first_stage_stride, *[stride for _, stride, _ in STAGES[1:]]]
    return SearchSpace(
        name=name,
        stem=(
            ConvSpec(widths=scaled(32), kernel=3, stride=stem_stride, activation="relu6"),
            StageSpec(widths=scaled(16), depths=(1,), expands=(1,), activation="relu6"),
        ),
        stages=tuple(
            StageSpec(
                widths=scaled(channels),
                depths=depths,
                kernels=kernels,
                expands=(3, 4, 6),
                stride=stride,
                activation="relu6",
            )
            for (channels, _, depths), stride in zip(STAGES, strides, strict=True)
        ),
        head=(ConvSpec(widths=scaled(1280), activation="relu6"), PoolSpec(kind="mean")),
        resolutions=resolutions,
        num_classes=num_classes,
        norm_eps=1e-3,
    )


def spaces() -> tuple[SearchSpace, ...]:
    """Return the spaces of this family."""
    return (
        proxyless("ofa-proxyless-w1.0", width=1.0),
        proxyless("ofa-proxyless-w1.3", width=1.3),
        proxyless("cifar-proxyless", width=1.0, resolutions=(32,), stem_stride=1, first_stage_stride=1, num_classes=10),
        # For a study on a processor, as cifar-mbv3-narrow and cifar-mbv3-tiny.
        proxyless(
            "cifar-proxyless-narrow", width=0.5, resolutions=(32,), first_stage_stride=1, kernels=(3, 5), num_classes=10
        ),
        proxyless("cifar-proxyless-tiny", width=0.5, resolutions=(32,), kernels=(3,), num_classes=10),
    )
