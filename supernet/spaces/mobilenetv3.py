"""The once-for-all MobileNetV3 spaces and their relatives for 32-pixel images.

Source: Cai et al., Once-for-All, ICLR 2020; the 32-pixel strides are those of DεpS, ECCV 2024.
"""

from __future__ import annotations

from deps.supernet.space import ConvSpec, PoolSpec, SearchSpace, StageSpec, round_channels

IMAGENET_RESOLUTIONS = tuple(range(128, 225, 4))

STAGES = (
    # width, stride, activation, squeeze-excite
    (24, 2, "relu", False),
    (40, 2, "relu", True),
    (80, 2, "hswish", False),
    (112, 1, "hswish", True),
    (160, 2, "hswish", True),
)


def mobilenetv3(
    name: str,
    *,
    width: float,
    resolutions: tuple[int, ...] = IMAGENET_RESOLUTIONS,
    stem_stride: int = 2,
    first_stage_stride: int = 2,
    kernels: tuple[int, ...] = (3, 5, 7),
    num_classes: int = 1000,
) -> SearchSpace:
    """Return the MobileNetV3 space whose channels are multiplied by ``width``.

    Args:
        name: what users call it.
        width: multiplier of every width; 1.0 and 1.2 are published.
        resolutions: choices of the image's side, in pixels.
        stem_stride: stride of the first convolution.
        first_stage_stride: stride of the first elastic stage.
        kernels: choices of the kernel size of each block.
        num_classes: outputs of the classifier.
    """

    def scaled(channels: int) -> tuple[int]:
        return (round_channels(channels * width),)

    strides = [first_stage_stride, *[stride for _, stride, _, _ in STAGES[1:]]]
    return SearchSpace(
        name=name,
        stem=(
            ConvSpec(widths=scaled(16), kernel=3, stride=stem_stride, activation="hswish"),
            StageSpec(widths=scaled(16), depths=(1,), expands=(1,), activation="relu"),
        ),
        stages=tuple(
            StageSpec(
                widths=scaled(channels),
                depths=(2, 3, 4),
                kernels=kernels,
                expands=(3, 4, 6),
                stride=stride,
                activation="relu" if activation == "relu" else "hswish",
                squeeze_excite=squeeze_excite,
            )
            for (channels, _, activation, squeeze_excite), stride in zip(STAGES, strides, strict=True)
        ),
        head=(
            ConvSpec(widths=scaled(960), activation="hswish"),
            PoolSpec(kind="mean"),
            ConvSpec(widths=scaled(1280), activation="hswish", norm=False),
        ),
        resolutions=resolutions,
        num_classes=num_classes,
    )


def spaces() -> tuple[SearchSpace, ...]:
    """Return the spaces of this family."""
    return (
        mobilenetv3("ofa-mbv3-w1.0", width=1.0),
        mobilenetv3("ofa-mbv3-w1.2", width=1.2),
        mobilenetv3("cifar-mbv3", width=1.0, resolutions=(32,), stem_stride=1, first_stage_stride=1, num_classes=10),
        # For a study on a processor: half the width, a quarter of the pixels, and no kernel wider than its maps.
        mobilenetv3(
            "cifar-mbv3-narrow", width=0.5, resolutions=(32,), first_stage_stride=1, kernels=(3, 5), num_classes=10
        ),
        # A sixteenth of the pixels: a third of the cost of the narrow one, so that many trainings can be compared.
        mobilenetv3("cifar-mbv3-tiny", width=0.5, resolutions=(32,), kernels=(3,), num_classes=10),
    )
