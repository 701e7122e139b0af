"""A recipe: every setting of one training run, in one frozen value that is saved beside its results.

Relies on nothing that computes, so it can be built, shown and compared anywhere.
"""

from __future__ import annotations

import ast
import inspect
import math
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from deps.ground.errors import RecipeError, SpaceError
from deps.supernet.restrict import restricted
from deps.supernet.space import SearchSpace
from deps.supernet.spaces import get_space
from deps.train.augmentation import Augmentation

MethodName = Literal["deps", "ofa", "bignas", "compofa"]
METHODS: tuple[str, ...] = typing.get_args(MethodName)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All settings of one training run."""

    name: str
    """What users call it."""

    dataset: str
    """Name of the images, see ``deps.train.data``."""

    space: str
    """Name of the search space; its classes become those of the images."""

    kernels: tuple[int, ...] = ()
    """Kernel sizes to train, of those that the space has, such as 7; empty means all of them."""

    expands: tuple[float, ...] = ()
    """Expand ratios to train, of those that the space has; empty means all of them."""

    depths: tuple[int, ...] = ()
    """Numbers of blocks of a stage to train, of those that the space has; empty means all of them."""

    resolutions: tuple[int, ...] = ()
    """Sides of the images in pixels, one of them a batch (elastic resolution); empty means all that the space has."""

    method: MethodName = "deps"
    """Training method: deps (delayed shrinking), ofa (progressive shrinking), bignas or compofa."""

    epochs: int
    """Passes over the training images."""

    last_epoch: float = 1.0
    """Share of the last epoch that is trained, so that methods can be given the same cost; the schedule ends there."""

    batch_size: int
    """Images a step."""

    lr: float
    """Learning rate at the first step; it falls to 0 along a cosine."""

    classifier_lr: float = 1.0
    """Learning rate of the classifier, as a share of ``lr``; below 1 where it sees many normalised features."""

    lr_warmup: float = 0.0
    """Epochs in which the learning rate rises linearly to its cosine."""

    momentum: float = 0.9
    """Nesterov momentum of SGD."""

    weight_decay: float = 3e-5
    """Weight decay of convolutions, kernel matrices and the classifier; none on BatchNorm and biases."""

    clip_gradient: float = 0.0
    """Largest norm of a step's gradient; 0 means no bound."""

    label_smoothing: float = 0.1
    """Share of the label that is spread over all classes."""

    dropout: float = 0.1
    """Dropout before the classifier, in the full model's forward only."""

    warmup_fraction: float = 0.5
    """Share of the epochs in which the full model trains alone (FM-Warmup)."""

    epsilon_ramp: float = 5.0
    """Epochs over which the subnets' learning rate rises from 0 to the full model's (ε-Shrinking); 0 means at once."""

    random_subnets: int = 2
    """Random subnets a step, beside the largest and the smallest (sandwich rule)."""

    distill: bool = True
    """Whether subnets learn from the full model's soft labels (in-place distillation) instead of the labels."""

    distill_temperature: float = 1.0
    """Temperature of the soft labels."""

    label_weight: float = 0.0
    """Weight of the labels' loss that subnets are given beside that of the full model's soft labels."""

    sort_channels: bool = True
    """Whether channels are sorted by importance when shrinking starts."""

    kernel_matrices: bool = True
    """Whether smaller kernels pass through trained matrices; otherwise they are cropped only."""

    calibration_images: int = 2000
    """Training images from which BatchNorm is recalibrated for each measured subnet; all of them when fewer."""

    evaluation_subnets: int = 4
    """Random subnets in the table at the end, beside the smallest and the largest."""

    seed: int = 0
    """Seed of everything random: weights, order of images, augmentation, dropout, subnets."""

    augment: Augmentation
    """How training images are varied."""

    train_images: int = 0
    """Training images to use, for a quick trial; 0 means all of them."""

    validation_images: int = 0
    """Training images held out for choices, where the data set brings none for them; 0 means a tenth."""

    evaluation_images: int = 0
    """Images of each other split to measure with, for a quick trial; 0 means all of them."""

    mean: tuple[float, ...] = ()
    """Mean of each colour channel, 0..1; empty means what is published, or is computed from the training images."""

    std: tuple[float, ...] = ()
    """Standard deviation of each colour channel, 0..1; empty as for the mean."""

    threads: int = 0
    """CPU threads; 0 leaves the choice to torch. More threads than the work feeds only wait for each other."""

    data: str = ""
    """Folder of the images, for data sets that are not part of an installed package."""

    classes: str = ""
    """File that lists the folders of the classes to use, one a line; empty means all of them."""

    finetune_from: str = ""
    """Run folder, supernet folder or published once-for-all file whose weights are the start; empty: fresh ones."""

    group_size: int = 0
    """Images that BatchNorm normalises together; 0 means a process's whole share, as it is when the run starts."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Type of convolutions and products: bf16, fp32, or auto, which is bf16 on GPUs that have it and fp32 elsewhere."""

    layout: Literal["auto", "channels-first", "channels-last"] = "auto"
    """Order of a map's numbers in memory: auto is channels-last on GPUs and channels-first on processors."""

    initial: Literal["fan-out", "fan-in"] = "fan-in"
    """Variance of fresh convolutions: fan-in is torch's own; fan-out, He's, learns more slowly at the same rate."""

    epsilon_shape: Literal["linear", "cosine", "constant"] = "linear"
    """How the subnets' learning rate rises during the ramp; constant keeps ε at 1 from the start."""

    cosine_at_shrink: float = 0.0
    """Share of the learning rate's cosine that is behind when subnets join (deps); 0 keeps one pace, the paper's."""

    gradient_average: bool = False
    """Whether the gradients of a step's subnets are averaged instead of summed."""

    reset_momentum: bool = False
    """Whether momentum starts from zero again when the subnets join."""

    teacher: str = ""
    """Run folder whose full model teaches the subnets instead of the one in training (deps and bignas)."""

    def __post_init__(self) -> None:
        def require(holds: bool, field: str, expected: str) -> None:
            if not holds:
                raise RecipeError(f"{field} is {getattr(self, field)!r} in recipe {self.name}; expected {expected}")

        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float):
                require(math.isfinite(value), field.name, "a finite number")
        require(self.epochs >= 1, "epochs", "at least 1")
        require(0 < self.last_epoch <= 1, "last_epoch", "above 0 and at most 1")
        require(self.batch_size >= 2, "batch_size", "at least 2, since BatchNorm needs two images")
        require(self.lr > 0, "lr", "a positive number")
        require(self.classifier_lr > 0, "classifier_lr", "a positive share of lr")
        require(self.lr_warmup >= 0, "lr_warmup", "0 or more epochs")
        require(0 <= self.momentum < 1, "momentum", "at least 0 and below 1")
        require(self.weight_decay >= 0, "weight_decay", "0 or more")
        require(self.clip_gradient >= 0, "clip_gradient", "0 (no bound) or more")
        require(0 <= self.label_smoothing < 1, "label_smoothing", "at least 0 and below 1")
        require(0 <= self.dropout < 1, "dropout", "at least 0 and below 1")
        require(0 <= self.warmup_fraction <= 1, "warmup_fraction", "between 0 and 1")
        require(self.epsilon_ramp >= 0, "epsilon_ramp", "0 or more epochs")
        require(0 <= self.cosine_at_shrink < 1, "cosine_at_shrink", "0 (one pace) or more, and below 1")
        require(self.random_subnets >= 0, "random_subnets", "0 or more")
        require(self.distill_temperature > 0, "distill_temperature", "a positive number")
        require(self.label_weight >= 0, "label_weight", "0 or more")
        require(self.calibration_images >= 2, "calibration_images", "at least 2")
        require(self.evaluation_subnets >= 0, "evaluation_subnets", "0 or more")
        require(self.seed >= 0, "seed", "0 or more")
        require(self.train_images >= 0, "train_images", "0 (all) or more")
        require(self.group_size == 0 or self.group_size >= 2, "group_size", "0 (a process's share) or at least 2")
        require(
            self.group_size == 0 or self.batch_size % self.group_size == 0,
            "group_size",
            f"a divisor of the batch of {self.batch_size}",
        )
        for name, known in field_choices().items():
            if hasattr(self, name):
                require(getattr(self, name) in known, name, f"one of {', '.join(known)}")
        require(
            not self.teacher or self.method in ("deps", "bignas"), "teacher", "none: OFA and CompOFA train their own"
        )
        require(not self.teacher or self.distill, "teacher", "none without --distill")
        require(self.threads >= 0, "threads", "0 (torch's choice) or more")
        require(self.evaluation_images >= 0, "evaluation_images", "0 (all) or more")
        require(self.validation_images >= 0, "validation_images", "0 (a tenth) or more")
        require(all(math.isfinite(v) for v in self.mean), "mean", "a finite number for each channel")
        require(all(math.isfinite(v) and v > 0 for v in self.std), "std", "a positive number for each channel")
        require(len(self.mean) == len(self.std), "std", "as many numbers as mean has")
        for name in ("kernels", "expands", "depths", "resolutions"):
            values = getattr(self, name)
            require(list(values) == sorted(set(values)), name, "ascending, distinct numbers")
        try:
            self.search_space()
        except SpaceError as error:
            raise RecipeError(f"recipe {self.name}: {error}") from error

    def steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps of the whole training, at least 1."""
        return max(1, round((self.epochs - 1 + self.last_epoch) * steps_per_epoch))

    def search_space(self, num_classes: int | None = None) -> SearchSpace:
        """Return the space that is trained: the named one, restricted to the choices asked for.

        Args:
            num_classes: of the images; None leaves what the space has.

        Raises:
            SpaceError: there is no such space, or it has no such choices.
        """
        space = restricted(
            get_space(self.space),
            kernels=self.kernels,
            expands=self.expands,
            depths=self.depths,
            resolutions=self.resolutions,
        )
        return space if num_classes is None else replace(space, num_classes=num_classes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, which ``from_dict`` reads."""
        return asdict(self)

    def settings(self) -> dict[str, Any]:
        """Return every setting by the name of its flag, those of the augmentation among them."""
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "augment"}
        return plain | asdict(self.augment)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Recipe:
        """Return the recipe that ``to_dict`` wrote.

        Raises:
            RecipeError: a field is missing, unknown or out of range.
        """
        try:
            return cls(**{**_checked(cls, value), "augment": Augmentation(**_checked(Augmentation, value["augment"]))})
        except (KeyError, TypeError) as error:
            raise RecipeError(f"not a recipe: {error}") from error


def _checked(cls: type, value: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe, or of its augmentation, as they stood in JSON."""
    kinds, result = _kinds(cls), dict(value)
    if unknown := set(value) - set(kinds) - {"augment"}:
        raise RecipeError(f"unknown settings {sorted(unknown)} in a recipe; known: {', '.join(kinds)}")
    for name, kind in kinds.items():
        if name not in value:
            continue
        found = value[name]
        if kind is tuple:
            fits = isinstance(found, (list, tuple)) and all(type(item) in (int, float) for item in found)
            result[name] = tuple(found) if fits else found
        else:
            fits = isinstance(found, (int, float) if kind is float else kind) and (kind is bool or found is not True)
        if not fits:
            raise RecipeError(
                f"{name} is {found!r} in a recipe; expected {'a list' if kind is tuple else kind.__name__}"
            )
    return result


def override(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """Return the recipe with some settings changed, those of its augmentation among them.

    Raises:
        RecipeError: a value is out of range.
    """
    inner = {name: value for name, value in changes.items() if name in _kinds(Augmentation)}
    outer = {name: value for name, value in changes.items() if name not in inner}
    return replace(recipe, **outer, augment=replace(recipe.augment, **inner)) if inner else replace(recipe, **outer)


def field_kinds() -> dict[str, type]:
    """Return the plain type of every setting: str, int, float, bool, or tuple for a list of numbers."""
    return _kinds(Recipe) | _kinds(Augmentation)


def _kinds(cls: type) -> dict[str, type]:
    hints = typing.get_type_hints(cls)
    kinds = {}
    for field in fields(cls):
        hint = hints[field.name]
        origin = typing.get_origin(hint)
        if hint is not Augmentation:
            kinds[field.name] = str if origin is Literal else tuple if origin is tuple else hint
    return kinds


def field_choices() -> dict[str, tuple[str, ...]]:
    """Return the known values of the fields that have a fixed list of them."""
    hints = {**typing.get_type_hints(Recipe), **typing.get_type_hints(Augmentation)}
    return {name: typing.get_args(hint) for name, hint in hints.items() if typing.get_origin(hint) is Literal}


def field_docs() -> dict[str, str]:
    """Return what the docstring under each setting says, for ``--help``."""
    return _docs(Recipe) | _docs(Augmentation)


def _docs(cls: type) -> dict[str, str]:
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            docs[statement.target.id] = str(after.value.value)
    docs.pop("augment", None)
    return docs


RecipeFunction = Callable[[], Recipe]
