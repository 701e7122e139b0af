"""A small space of each family for the 8 x 8 digits that ship with scikit-learn; trains in a minute on two cores.

Relies on the same vocabulary as the large spaces: every kind of choice that they have stands here once.
"""

from __future__ import annotations

from deps.supernet.space import ConvSpec, PoolSpec, SearchSpace, StageSpec


def digits() -> SearchSpace:
    """Return the digits space: 1 x 8 x 8 images, ten classes, feature maps of 8, 4 and 2 pixels."""
    return SearchSpace(
        name="digits",
        stem=(
            ConvSpec(widths=(16,), kernel=3, activation="hswish"),
            StageSpec(widths=(16,), depths=(1,), expands=(1,), activation="relu"),
        ),
        stages=(
            StageSpec(widths=(24,), depths=(1, 2), kernels=(3, 5), expands=(2, 3, 4), stride=2, activation="relu"),
            StageSpec(
                widths=(32,),
                depths=(1, 2),
                kernels=(3, 5),
                expands=(2, 3, 4),
                activation="hswish",
                squeeze_excite=True,
            ),
            StageSpec(
                widths=(48,),
                depths=(1, 2),
                kernels=(3, 5),
                expands=(2, 3, 4),
                stride=2,
                activation="hswish",
                squeeze_excite=True,
            ),
        ),
        head=(
            ConvSpec(widths=(128,), activation="hswish"),
            PoolSpec(kind="mean"),
            ConvSpec(widths=(128,), activation="hswish", norm=False),
        ),
        resolutions=(8,),
        num_classes=10,
        in_channels=1,
    )


def digits_proxyless() -> SearchSpace:
    """Return the ProxylessNAS relative: ReLU6, no squeeze-excite, a last stage of one block."""
    stages = ((24, (1, 2), 2), (32, (1, 2), 1), (48, (1,), 2))
    return SearchSpace(
        name="digits-proxyless",
        stem=(
            ConvSpec(widths=(16,), kernel=3, activation="relu6"),
            StageSpec(widths=(16,), depths=(1,), expands=(1,), activation="relu6"),
        ),
        stages=tuple(
            StageSpec(
                widths=(width,), depths=depths, kernels=(3, 5), expands=(2, 3, 4), stride=stride, activation="relu6"
            )
            for width, depths, stride in stages
        ),
        head=(ConvSpec(widths=(128,), activation="relu6"), PoolSpec(kind="mean")),
        resolutions=(8,),
        num_classes=10,
        in_channels=1,
        norm_eps=1e-3,
    )


def digits_resnet50() -> SearchSpace:
    """Return the ResNet-50 relative: bottlenecks, elastic widths, and a stem whose middle layer may be left out."""
    stages = (((48, 64), (1, 2), 1), ((64, 96), (1, 2), 2), ((96, 128), (1, 2), 2))
    return SearchSpace(
        name="digits-resnet50",
        stem=(
            ConvSpec(widths=(8, 16), kernel=3, activation="relu"),
            ConvSpec(widths=(), kernel=3, activation="relu", is_optional=True),
            ConvSpec(widths=(16, 24), kernel=3, activation="relu"),
        ),
        stages=tuple(
            StageSpec(block="bottleneck", widths=widths, depths=depths, expands=(0.2, 0.25, 0.35), stride=stride)
            for widths, depths, stride in stages
        ),
        head=(PoolSpec(kind="mean"),),
        resolutions=(8,),
        num_classes=10,
        in_channels=1,
    )


def spaces() -> tuple[SearchSpace, ...]:
    """Return the spaces of this family."""
    return (digits(), digits_proxyless(), digits_resnet50())
