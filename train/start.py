"""Where a training starts: a space that fits the images, weights, a teacher, and a batch that the ranks can share.

Relies on the recipe being resolved: what ``--finetune-from`` implies for its settings, ``finetune.py`` has put there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from deps.ground.console import Story
from deps.ground.errors import RecipeError, RunError
from deps.supernet.plan import CLASSIFIER
from deps.supernet.space import SearchSpace
from deps.supernet.supernet import Supernet, supernet_shapes
from deps.train.data import ImageData
from deps.train.distributed import Ranks
from deps.train.finetune import Origin, open_origin
from deps.train.recipe import Recipe
from deps.train.run import RECIPE, open_run, read_recipe


def space_for(recipe: Recipe, data: ImageData) -> SearchSpace:
    """Return the space of a recipe with the classes of the images.

    Raises:
        RecipeError: the images have another number of colour channels than the space takes.
    """
    space = recipe.search_space(len(data.classes))
    channels = len(data.preprocessing.mean)
    if channels != space.in_channels:
        raise RecipeError(
            f"{data.name} has {channels} colour channels and {space.name} takes {space.in_channels}; "
            "choose another --space"
        )
    return space


def initial_supernet(recipe: Recipe, data: ImageData, story: Story) -> Supernet:
    """Return the supernet that training starts with; its provenance says where weights came from.

    Raises:
        RecipeError: the images do not fit the space, or the weights do not.
        DepsError: the file of the weights is missing or damaged.
    """
    space = space_for(recipe, data)
    fresh = Supernet.create(space, seed=recipe.seed, has_matrices=recipe.kernel_matrices, initial=recipe.initial)
    if not recipe.finetune_from:
        return fresh
    origin = open_origin(Path(recipe.finetune_from))
    keeps = keeps_classifier(origin, recipe, data)
    taken = _taken(origin, fresh, keeps_classifier=keeps)
    fresh.tensors.update(taken)
    kept = "kept" if keeps else f"made anew for {len(data.classes)} classes"
    story.say(f"starting from {recipe.finetune_from} ({origin.supernet.space.name}); the classifier is {kept}")
    fresh.provenance = {"finetuned_from": {**origin.identity, "keeps_classifier": keeps}}
    return fresh


def keeps_classifier(origin: Origin, recipe: Recipe, data: ImageData) -> bool:
    """Return whether the classes are the same: in number and in name, or ImageNet's, whose order is published."""
    if origin.supernet.space.num_classes != len(data.classes):
        return False
    return origin.classes == data.classes if origin.classes else recipe.dataset == "imagenet"


def _taken(origin: Origin, fresh: Supernet, *, keeps_classifier: bool) -> dict[str, torch.Tensor]:
    """Return copies of the weights to take.

    Raises:
        RecipeError: they are of another shape.
    """
    theirs, taken = origin.supernet.tensors, {}
    expected = supernet_shapes(fresh.space, has_matrices=any(".matrix_" in name for name in fresh.tensors))
    for name, shape in expected.items():
        if name.startswith(f"{CLASSIFIER}.") and not keeps_classifier:
            continue
        if name not in theirs or tuple(theirs[name].shape) != shape:
            found = f"has shape {list(theirs[name].shape)}" if name in theirs else "is missing"
            raise RecipeError(
                f"the weights of {origin.path} are of {origin.supernet.space.name} and do not fit {fresh.space.name}: "
                f"{name} {found}; leave out --space and what restricts it, or give another checkpoint"
            )
        taken[name] = theirs[name].detach().clone()
    # Kernel matrices are the only tensors that a restriction of the same shapes leaves out.
    if left := [name for name in theirs if name not in expected and ".matrix_" not in name]:
        raise RecipeError(
            f"{origin.path} holds {left[0]} and {len(left) - 1} more, which {fresh.space.name} does not have; "
            "leave out --space and what restricts it, or give another checkpoint"
        )
    return taken


def describe(data: ImageData) -> dict[str, Any]:
    """Return what later users of the weights must know of the images."""
    return {
        "name": data.name,
        "classes": list(data.classes),
        "mean": list(data.preprocessing.mean),
        "std": list(data.preprocessing.std),
    }


def with_group_size(recipe: Recipe, folder: Path, ranks: Ranks, *, resumes: bool) -> Recipe:
    """Return the recipe with the group size of a run that is started by these ranks, or that was started already."""
    if recipe.group_size:
        return recipe
    if resumes and (folder / RECIPE).exists():
        stored = read_recipe(folder)
        return replace(recipe, group_size=stored.group_size or recipe.batch_size)
    return replace(recipe, group_size=max(2, recipe.batch_size // ranks.size))


def require_even(recipe: Recipe, ranks: Ranks) -> None:
    """Make sure that the groups of a batch can be shared out evenly.

    Raises:
        RunError: they cannot; it says how many processes could.
    """
    groups = recipe.batch_size // recipe.group_size
    if recipe.batch_size % ranks.size or groups % ranks.size:
        able = [size for size in range(1, groups + 1) if groups % size == 0]
        raise RunError(
            f"a batch of {recipe.batch_size} is {groups} groups of {recipe.group_size} images, which {ranks.size} "
            f"processes cannot share evenly; start {', '.join(map(str, able))} of them, or a new run with another "
            "--group-size"
        )


def finished_teacher(recipe: Recipe, supernet: Supernet) -> Supernet:
    """Return the supernet of another run, whose full model teaches.

    Raises:
        RunError: there is no finished run, or it is of another space.
    """
    teacher = open_run(recipe.teacher).supernet()
    if teacher.space != supernet.space:
        raise RunError(
            f"the teacher in {recipe.teacher} is of the space {teacher.space.name} with {teacher.space.num_classes} "
            f"classes; this run needs {supernet.space.name} with {supernet.space.num_classes}; name another --teacher"
        )
    return teacher
