"""What stands beside the subnets that the pipeline ships: networks trained for their budget alone.

torchvision's MobileNetV2 and MobileNetV3-Large, with the width multiplier that comes closest to the budget and the
strides of our space, and each shipped architecture itself. All are trained by the setting's recipe on as many images as
the supernet saw that was shipped, and start from torch's own initial weights, as the supernet does: torchvision's, by
fan-out, learn more slowly in trainings as short as these. Relies on ``pipeline.py`` for the architectures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from jobs import Job, Place, plain_flops, trained_alone, write_result
from setting import Changes, Setting
from torch import nn

from deps.ground.files import read_json
from deps.ground.units import parse_count
from deps.profile.flops import count
from deps.supernet import ArchSpec
from deps.supernet.network import network

STUDY = "rivals"
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    # By its own default channels are multiples of 8, which lies up to a seventh off a budget as small as these.
    "mobilenet_v2": functools.partial(torchvision.models.mobilenet_v2, round_nearest=4),
    "mobilenet_v3_large": torchvision.models.mobilenet_v3_large,
}
CHANGES: dict[str, Changes] = {"mobilenet_v2": {"classifier_lr": 1 / 16}}
"""What is changed in the recipe. MobileNetV2's classifier sees 1,280 normalised features, for which the others' rate is
too high: docs/decisions/0019-classifier-rate.md."""
SHIPPED = "shipped"


def multiply_adds(module: nn.Module, channels: int, side: int) -> int:
    """Return the multiply-adds of convolutions and linear layers for one image, counted on a real forward pass."""
    total = 0

    def hook(layer: nn.Module, _: Any, y: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            kernel = layer.kernel_size[0] * layer.kernel_size[1]
            total += y[0].numel() * layer.in_channels // layer.groups * kernel
        elif isinstance(layer, nn.Linear):
            total += layer.in_features * layer.out_features

    handles = [m.register_forward_hook(hook) for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    module.eval()
    with torch.no_grad():
        module(torch.zeros(1, channels, side, side))
    for handle in handles:
        handle.remove()
    return total


def small_image_network(name: str, width: float, *, stride: int, channels: int, classes: int) -> nn.Module:
    """Return one of torchvision's networks, freshly initialised, with ``stride`` where it has 2 after the stem."""
    module = NETWORKS[name](weights=None, num_classes=classes, width_mult=width)
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.reset_parameters()
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    strided = [layer for layer in convolutions if layer.stride == (2, 2)]
    strided[1].stride = (stride, stride)
    if channels != 3:
        stem = convolutions[0]
        stem.in_channels, stem.weight = channels, nn.Parameter(stem.weight[:, :channels].detach().clone())
    return module


def matching_width(name: str, budget: int, *, stride: int, channels: int, classes: int, side: int) -> float:
    """Return the width multiplier, in hundredths, whose multiply-adds come closest to a budget."""

    def distance(hundredths: int) -> int:
        module = small_image_network(name, hundredths / 100, stride=stride, channels=channels, classes=classes)
        return abs(multiply_adds(module, channels, side) - budget)

    return min(range(5, 101), key=distance) / 100


def length(place: Place, supernet: str) -> Changes:
    """Return for how many epochs a supernet of the studies was trained."""
    study, _, name = supernet.partition("/")
    result = place.read(study, name)
    assert result is not None, f"{supernet} was shipped, so its result is there"
    return {key: result[key] for key in ("epochs", "last_epoch") if key in result}


@dataclass(frozen=True, kw_only=True)
class RivalJob:
    """One network for one budget."""

    study: str
    name: str
    seed: int
    network: str
    budget: str

    def planned(self, setting: Setting) -> int:
        """Return the multiply-adds of its training, as if it used its whole budget, for the setting's epochs."""
        return plain_flops(setting.whole_recipe(), parse_count(self.budget), setting.train_images)

    def run(self, place: Place) -> None:
        answer = place.results / "pipeline.json"
        if not answer.exists():
            print(f"      {self.name} waits for pipeline.py, which says what was shipped and from which supernet")
            return
        shipped = read_json(answer)
        changes = {**CHANGES.get(self.network, {}), **length(place, shipped["supernet"])}
        recipe = place.setting.whole_recipe(seed=self.seed, **changes)
        data = place.images(recipe)
        space = recipe.search_space(len(data.classes))
        shape = {"stride": space.stages[0].stride, "channels": space.in_channels, "classes": len(data.classes)}
        told: dict[str, Any] = {"study": self.study, "job": self.name, "seed": self.seed, "budget": self.budget}
        told |= {"network": self.network, "lr": recipe.lr, "classifier_lr": recipe.classifier_lr}
        if self.network == SHIPPED:
            rows = {row["budget"]: row for row in shipped["subnets"]}
            arch = ArchSpec.from_dict(space, rows[self.budget]["arch"])
            torch.manual_seed(self.seed)
            module: nn.Module = network(space, arch)
            flops = count(space, arch).flops
            told["arch"] = arch.to_dict()
        else:
            side = space.resolutions[-1]
            width = matching_width(self.network, parse_count(self.budget), side=side, **shape)
            torch.manual_seed(self.seed)
            module = small_image_network(self.network, width, **shape)
            flops = multiply_adds(module, space.in_channels, side)
            told["width"] = width
        folder = place.runs / self.study / self.name
        write_result(place, self, {**told, **trained_alone(module, flops, recipe, data, place, folder)})


def jobs(setting: Setting) -> list[Job]:
    """Return a job for each budget and network."""
    return [
        RivalJob(study=STUDY, name=f"{name}-{budget}", seed=setting.seeds[0], network=name, budget=budget)
        for name in (*NETWORKS, SHIPPED)
        for budget in setting.budgets
    ]
