"""What ``--finetune-from`` means: whose weights they are, and which settings of a recipe they change by default.

Relies on ``Supernet.load``, which reads runs, supernet folders and published once-for-all files.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deps.ground.errors import FileError, RecipeError, SpaceError
from deps.ground.files import sha256_of
from deps.supernet.checkpoint import WEIGHTS
from deps.supernet.restrict import restricted
from deps.supernet.space import SearchSpace
from deps.supernet.spaces import get_space, space_names
from deps.supernet.supernet import Supernet
from deps.train.recipe import Recipe

LR_SHARE = 0.1
"""Learning rate of fine-tuning, as a share of the recipe's; ours, since none is published."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A trained supernet to start from."""

    path: Path
    supernet: Supernet
    classes: tuple[str, ...]
    """Names of its classes; empty where nobody wrote them down, as in published files."""

    mean: tuple[float, ...]
    """Mean of the pixels that it was trained on; empty where unknown."""

    std: tuple[float, ...]
    identity: dict[str, Any]
    """Path, space and hash, for the record."""


def open_origin(path: Path) -> Origin:
    """Return the supernet in a run folder, a supernet folder, or a published once-for-all file.

    Raises:
        FileError: there is none, or it is damaged.
        CheckpointError: the file holds something else.
    """
    if not path.exists():
        raise FileError(f"{path} does not exist; --finetune-from takes a run folder or a published checkpoint")
    if path.is_dir() and not (path / "supernet.json").exists():
        raise FileError(f"{path} holds no finished supernet; --finetune-from takes a finished run; finish it first")
    supernet = Supernet.load(path)
    images: dict[str, Any] = supernet.provenance.get("images", {})
    weights = path / WEIGHTS if path.is_dir() else path
    identity = {"path": str(path), "space": supernet.space.name, "sha256": sha256_of(weights)}
    return Origin(
        path=path,
        supernet=supernet,
        classes=tuple(images.get("classes", ())),
        mean=tuple(images.get("mean", ())),
        std=tuple(images.get("std", ())),
        identity=identity,
    )


def finetuned(recipe: Recipe, given: Collection[str]) -> Recipe:
    """Return a recipe with ``finetune_from`` with what follows from it, for settings that nobody gave.

    The space, its restrictions and its kernel matrices become the checkpoint's; the full model has no time alone and
    ε no ramp, since all subnets are trained already (OFA and CompOFA still train their teacher first); channels are
    not sorted anew, which would take trained subnets apart; the learning rate is a tenth; and pictures are normalised
    as the weights are used to.

    Args:
        recipe: names the checkpoint.
        given: names of settings that a person set.

    Raises:
        RecipeError: the space that a person set is not the checkpoint's, or the checkpoint's cannot be named.
    """
    origin = open_origin(Path(recipe.finetune_from))
    theirs = origin.supernet.space
    changes: dict[str, Any] = {"sort_channels": False, "lr": recipe.lr * LR_SHARE, "lr_warmup": 0.0}
    changes["kernel_matrices"] = any(".matrix_" in name for name in origin.supernet.tensors)
    if recipe.method in ("deps", "bignas"):
        changes |= {"warmup_fraction": 0.0, "epsilon_ramp": 0.0}
    changes |= _space_settings(theirs)
    if "space" in given and recipe.space != changes["space"]:
        raise RecipeError(
            f"{origin.path} holds a supernet of {theirs.name}, not of {recipe.space}; leave out --space to take it as "
            "it is, or give another checkpoint"
        )
    if theirs.resolutions == get_space(changes["space"]).resolutions:
        changes.pop("resolutions")  # Trained for all: the recipe's own choice is one of them.
    if recipe.dataset == "imagefolder":
        changes |= {"mean": origin.mean or IMAGENET_MEAN, "std": origin.std or IMAGENET_STD}
    return replace(recipe, **{name: value for name, value in changes.items() if name not in given})


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What published supernets were trained with."""


def _space_settings(space: SearchSpace) -> dict[str, Any]:
    """Return the recipe's settings that give a space again: a shipped one and its restrictions.

    Raises:
        RecipeError: the space is not made from a shipped one.
    """

    def choices(axis: str) -> tuple[Any, ...]:
        return tuple(sorted(set(itertools.chain(*[getattr(stage, axis) for stage in space.stages]))))

    for name in space_names():
        if not space.name.startswith(name):
            continue
        base = get_space(name)
        pairs = list(zip(space.stages, base.stages, strict=False))
        settings: dict[str, Any] = {
            axis: choices(axis) if any(getattr(a, axis) != getattr(b, axis) for a, b in pairs) else ()
            for axis in ("kernels", "expands", "depths")
        }
        settings["resolutions"] = space.resolutions if space.resolutions != base.resolutions else ()
        try:
            same = dataclasses.replace(restricted(base, **settings), num_classes=space.num_classes) == space
        except SpaceError:
            continue
        if same:
            return {"space": name, **settings}
    raise RecipeError(
        f"the checkpoint is of {space.name}, which is none of the spaces that recipes can name: "
        f"{', '.join(space_names())}"
    )
