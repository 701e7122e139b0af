"""A small MobileNetV3-like space for the 8 x 8 digits that ship with scikit-learn; trains in a minute on two cores.

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


def spaces() -> tuple[SearchSpace, ...]:
    """Return the spaces of this family."""
    return (digits(),)
