"""A search space as frozen data: what may vary, and between which choices.

Relies on nothing but the standard library, so a device can read one. A user's own space is a value of these classes
and needs no new code.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from deps.ground.errors import SpaceError

Activation = Literal["relu", "relu6", "hswish"]
BlockKind = Literal["inverted", "bottleneck"]

ACTIVATIONS: tuple[Activation, ...] = ("relu", "relu6", "hswish")


def round_channels(channels: float) -> int:
    """Return the multiple of eight nearest to ``channels``, at least 8, and never below 90 % of it.

    Source: the rounding of MobileNet widths, as once-for-all uses it.
    """
    rounded = max(8, int((channels + 4) // 8) * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SpaceError(message)


def _require_choices(what: str, choices: tuple[Any, ...], minimum: float) -> None:
    _require(isinstance(choices, tuple) and len(choices) > 0, f"{what} has no choices; give at least one, in a tuple")
    kinds = (int, float) if isinstance(minimum, float) else (int,)
    _require(
        all(isinstance(choice, kinds) and not isinstance(choice, bool) for choice in choices),
        f"{what} is {list(choices)}; expected {'numbers' if float in kinds else 'whole numbers'}",
    )
    _require(
        list(choices) == sorted(set(choices)) and min(choices) >= minimum,
        f"{what} is {list(choices)}; expected ascending, distinct numbers, each at least {minimum:g}",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvSpec:
    """One convolution outside the elastic stages, with its BatchNorm and activation."""

    widths: tuple[int, ...]
    """Choices of output channels, ascending; empty means as many as come in."""

    kernel: int = 1
    """Kernel size, odd; the padding is ``kernel // 2``."""

    stride: int = 1
    activation: Activation | None = None

    norm: bool = True
    """Whether a BatchNorm follows; the convolution itself never has a bias."""

    is_optional: bool = False
    """Whether the stem's depth may leave it out; the input is added to its output when it is there."""

    def __post_init__(self) -> None:
        if self.widths:
            _require_choices("widths of a convolution", self.widths, 1)
        _require(self.kernel >= 1 and self.kernel % 2 == 1, f"kernel is {self.kernel}; expected an odd, positive size")
        _require(self.stride in (1, 2), f"stride is {self.stride}; expected 1 or 2")
        _require(
            self.activation is None or self.activation in ACTIVATIONS,
            f"activation is {self.activation!r}; expected one of {', '.join(ACTIVATIONS)}",
        )
        _require(
            not self.is_optional or (self.stride == 1 and not self.widths),
            "an optional convolution keeps its input's shape: stride 1 and no widths of its own",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSpec:
    """A pooling step: ``max`` is 3 x 3 with stride 2, ``mean`` averages each channel to one pixel."""

    kind: Literal["max", "mean"]

    def __post_init__(self) -> None:
        _require(self.kind in ("max", "mean"), f"pool is {self.kind!r}; expected max or mean")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpec:
    """A run of blocks with one width; only the first may change channels or stride."""

    block: BlockKind = "inverted"
    widths: tuple[int, ...]
    """Choices of output channels, ascending; one for all blocks of the stage."""

    depths: tuple[int, ...]
    """Choices of the number of blocks, ascending."""

    kernels: tuple[int, ...] = (3,)
    """Choices of the kernel size of each block, ascending and odd."""

    expands: tuple[float, ...]
    """Choices of the ratio of middle channels, to the input (inverted) or the output (bottleneck).

    When 1 is the only choice of an inverted block, it begins with the depthwise convolution.
    """

    stride: int = 1
    """Stride of the first block."""

    activation: Activation = "relu"
    squeeze_excite: bool = False

    def __post_init__(self) -> None:
        _require(self.block in ("inverted", "bottleneck"), f"block is {self.block!r}; expected inverted or bottleneck")
        _require_choices("widths of a stage", self.widths, 1)
        _require_choices("depths of a stage", self.depths, 1)
        _require_choices("kernels of a stage", self.kernels, 1)
        _require_choices("expands of a stage", self.expands, 0.01)
        _require(all(k % 2 == 1 for k in self.kernels), f"kernels are {list(self.kernels)}; expected odd sizes")
        _require(self.stride in (1, 2), f"stride is {self.stride}; expected 1 or 2")
        _require(
            self.activation in ACTIVATIONS,
            f"activation is {self.activation!r}; expected one of {', '.join(ACTIVATIONS)}",
        )
        _require(
            self.block == "inverted" or (self.kernels == (3,) and not self.squeeze_excite),
            "a bottleneck has kernel 3 and no squeeze-excite",
        )

    def middle(self, channels_in: int, channels_out: int, expand: float) -> int:
        """Return the channels between the first and the last convolution of a block."""
        if not self.has_expand:
            return channels_in
        base = channels_in if self.block == "inverted" else channels_out
        return round_channels(round(base * expand))

    @property
    def has_expand(self) -> bool:
        """Whether a block begins with a 1 x 1 convolution; like all names of weights, the same for every subnet."""
        return self.block == "bottleneck" or self.expands != (1,)

    @property
    def max_depth(self) -> int:
        """The number of blocks of the longest choice."""
        return self.depths[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One thing that may vary: the choices of one axis at one position."""

    kind: Literal["kernel", "expand", "depth", "width", "resolution"]
    position: int
    """Index into the list of that kind in an architecture."""

    choices: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """All that is needed to name, build and count every subnet of one supernet."""

    name: str

    stem: tuple[ConvSpec | PoolSpec | StageSpec, ...]
    """What comes before the elastic stages; a ``StageSpec`` here has one choice on each axis and one block."""

    stages: tuple[StageSpec, ...]
    head: tuple[ConvSpec | PoolSpec, ...]
    """What comes between the last stage and the classifier; contains the one mean pool."""

    resolutions: tuple[int, ...]
    """Choices of the image's side, in pixels."""

    num_classes: int = 1000
    in_channels: int = 3
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    """Weight of the newest batch in BatchNorm's running statistics, as torch counts it."""

    def __post_init__(self) -> None:
        _require(bool(self.name), "a search space needs a name")
        _require(len(self.stages) > 0, f"{self.name} has no stages; give at least one")
        _require_choices(f"resolutions of {self.name}", self.resolutions, 1)
        _require(self.num_classes >= 1, f"num_classes is {self.num_classes}; expected at least 1")
        _require(self.in_channels >= 1, f"in_channels is {self.in_channels}; expected at least 1")
        _require(self.norm_eps > 0, f"norm_eps is {self.norm_eps}; expected a small positive number, such as 1e-5")
        _require(0 <= self.norm_momentum <= 1, f"norm_momentum is {self.norm_momentum}; expected between 0 and 1")
        for spec in self.stem:
            if isinstance(spec, StageSpec):
                axes = (spec.widths, spec.depths, spec.kernels, spec.expands)
                _require(
                    all(len(choices) == 1 for choices in axes) and spec.depths == (1,),
                    f"a block in the stem of {self.name} has choices; a stem block is one fixed block",
                )
        _require(
            sum(isinstance(spec, ConvSpec) and spec.is_optional for spec in self.stem) <= 1,
            f"the stem of {self.name} has several optional convolutions; at most one is understood",
        )
        pools = [spec for spec in self.head if isinstance(spec, PoolSpec)]
        _require([pool.kind for pool in pools] == ["mean"], f"the head of {self.name} needs exactly one pool, the mean")
        _require(
            all(len(spec.widths) == 1 for spec in self.head if isinstance(spec, ConvSpec)),
            f"a convolution in the head of {self.name} must have exactly one width",
        )

    def __hash__(self) -> int:
        # Spaces are keys of caches in the training step; equal spaces have equal names.
        return hash(self.name)

    # The lists of an ArchSpec, position by position. -------------------------------------------------------------

    @functools.cached_property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """(stage, index within the stage) of every elastic block of the deepest subnet, in order."""
        return tuple((s, i) for s, stage in enumerate(self.stages) for i in range(stage.max_depth))

    @functools.cached_property
    def first_block(self) -> tuple[int, ...]:
        """For each stage the position of its first block in ``blocks``."""
        starts, position = [], 0
        for stage in self.stages:
            starts.append(position)
            position += stage.max_depth
        return tuple(starts)

    @property
    def has_elastic_stem(self) -> bool:
        """Whether the first entry of ``depths`` counts the stem's convolutions."""
        return any(isinstance(spec, ConvSpec) and spec.is_optional for spec in self.stem)

    @functools.cached_property
    def depth_choices(self) -> tuple[tuple[int, ...], ...]:
        """Choices of each entry of ``depths``: the stem's, where one of its layers is optional, then each stage's."""
        stages = tuple(stage.depths for stage in self.stages)
        if not self.has_elastic_stem:
            return stages
        convolutions = sum(isinstance(spec, ConvSpec) for spec in self.stem)
        return ((convolutions - 1, convolutions), *stages)

    @functools.cached_property
    def width_choices(self) -> tuple[tuple[int, ...], ...]:
        """Choices of each entry of ``widths``: wherever a width may vary, in the order of the data's flow."""
        return tuple(widths for widths in self._all_widths() if len(widths) > 1)

    def _all_widths(self) -> list[tuple[int, ...]]:
        stem = [spec.widths for spec in self.stem if not isinstance(spec, PoolSpec) and spec.widths]
        return [*stem, *[stage.widths for stage in self.stages]]

    @functools.cached_property
    def axes(self) -> tuple[Axis, ...]:
        """Every axis, in the order kernels, expands, depths, widths, resolution; also those with one choice."""
        stage_of = [stage for stage, _ in self.blocks]
        return (
            *[Axis(kind="kernel", position=i, choices=self.stages[s].kernels) for i, s in enumerate(stage_of)],
            *[Axis(kind="expand", position=i, choices=self.stages[s].expands) for i, s in enumerate(stage_of)],
            *[Axis(kind="depth", position=i, choices=c) for i, c in enumerate(self.depth_choices)],
            *[Axis(kind="width", position=i, choices=c) for i, c in enumerate(self.width_choices)],
            Axis(kind="resolution", position=0, choices=self.resolutions),
        )

    def stage_depth_index(self, stage: int) -> int:
        """Return where the depth of ``stage`` stands in ``depths``."""
        return stage + int(self.has_elastic_stem)

    def size(self, resolution: int | None = None) -> int:
        """Return the number of distinct subnets, at one resolution or at all."""
        count = 1 if resolution is not None else len(self.resolutions)
        for choices in self.width_choices:
            count *= len(choices)
        if self.has_elastic_stem:
            count *= 2
        for stage in self.stages:
            per_block = len(stage.kernels) * len(stage.expands)
            count *= sum(per_block**depth for depth in stage.depths)
        return count

    # JSON. ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the space as plain JSON data, which ``from_dict`` reads."""
        result = asdict(self)
        for part in ("stem", "stages", "head"):
            for spec, plain in zip(getattr(self, part), result[part], strict=True):
                plain["type"] = type(spec).__name__
        return result

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> SearchSpace:
        """Return the space that ``to_dict`` wrote.

        Raises:
            SpaceError: a field is missing, unknown or out of range.
        """
        kinds: dict[str, Any] = {kind.__name__: kind for kind in (ConvSpec, PoolSpec, StageSpec)}

        def spec(plain: dict[str, Any]) -> Any:
            fields = {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items() if key != "type"}
            return kinds[plain["type"]](**fields)

        try:
            fields = dict(value)
            for part in ("stem", "stages", "head"):
                fields[part] = tuple(spec(plain) for plain in fields[part])
            fields["resolutions"] = tuple(fields["resolutions"])
            return cls(**fields)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise SpaceError(f"not the description of a search space: {error}") from error


def feature_size(size: int, stride: int) -> int:
    """Return the side of a feature map after a layer of odd kernel and padding ``kernel // 2``."""
    return math.floor((size - 1) / stride) + 1
