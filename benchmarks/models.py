"""Bundles for the serving benchmarks: real subnets with random weights, and how accurate their shapes are said to be.

Relies on the search spaces and the ONNX writer of ``deps.supernet``. Speed does not depend on the weights; accuracies
are assigned, so no number here says how well anything classifies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from deps.ground.files import whole_folder
from deps.profile.flops import count
from deps.serve.manifest import InputSpec, Manifest, OutputSpec, SubnetEntry, model_file, write_manifest
from deps.supernet import ArchSpec, SearchSpace, Supernet, get_space
from deps.supernet.onnx_graph import onnx_from_subnet
from deps.supernet.plan import plan
from deps.supernet.spaces.mobilenetv3 import mobilenetv3

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def large_224() -> tuple[SearchSpace, ArchSpec]:
    """The subnet closest to MobileNetV3-Large (219 M multiply-adds) in the space it comes from, at 224 pixels."""
    space = get_space("ofa-mbv3-w1.0")
    return space, ArchSpec.from_ofa(space, ks=[3, 5, 5, 3, 5] * 4, e=[4] * 20, d=[2, 3, 3, 2, 3], resolution=224)


def small_32() -> tuple[SearchSpace, ArchSpec]:
    """The smallest subnet of the 32-pixel space: 35 M multiply-adds."""
    space = get_space("cifar-mbv3")
    return space, ArchSpec.smallest(space)


def narrow_32() -> tuple[SearchSpace, ArchSpec]:
    """A narrow subnet for 32 pixels, done in a fraction of a millisecond, so that the server decides."""
    space = mobilenetv3("mbv3-w0.25", width=0.25, resolutions=(32,), num_classes=10)
    return space, ArchSpec.smallest(space)


FAMILY_NAMES = ("smallest", "small", "medium", "large", "largest")


def family_128() -> list[tuple[str, SearchSpace, ArchSpec, float]]:
    """Five subnets of once-for-all at 128 pixels from the smallest to the largest, with assigned accuracies.

    Accuracies grow with the logarithm of the multiply-adds by 3 points a doubling, about as once-for-all's do.
    """
    space = get_space("ofa-mbv3-w1.0")
    choices = [(3, 3, 2), (3, 4, 2), (5, 4, 3), (5, 6, 3), (7, 6, 4)]
    found = []
    for name, (kernel, expand, depth) in zip(FAMILY_NAMES, choices, strict=True):
        arch = ArchSpec.from_ofa(space, ks=[kernel] * 20, e=[expand] * 20, d=[depth] * 5, resolution=128)
        found.append((name, space, arch, int(count(space, arch).flops)))
    least = found[0][3]
    return [(name, space, arch, round(0.62 + 0.03 * math.log2(flops / least), 4)) for name, space, arch, flops in found]


def write_bundle(
    out: Path, name: str, subnets: Sequence[tuple[str, SearchSpace, ArchSpec, float | None]], *, seed: int = 0
) -> Path:
    """Write a bundle of subnets of one space and one resolution; return its folder.

    Args:
        out: the folder; left alone when it holds a manifest already.
        name: of the model.
        subnets: name, space, architecture and assigned accuracy of each.
        seed: of the weights.
    """
    if (out / "manifest.json").exists():
        return out
    space, size = subnets[0][1], subnets[0][2].resolution
    supernet = Supernet.create(space, seed=seed)
    with whole_folder(out) as folder:
        entries = []
        for label, _, arch, accuracy in subnets:
            state = {key: tensor.numpy() for key, tensor in supernet.subnet(arch).state_dict().items()}
            place = folder / "models" / label
            place.mkdir(parents=True)
            content = onnx_from_subnet(plan(space, arch), state, eps=space.norm_eps).SerializeToString()
            (place / "fp32.onnx").write_bytes(content)
            file = model_file(
                folder, f"models/{label}/fp32.onnx", precision="fp32", backends=("onnxruntime",), top1=accuracy
            )
            cost = count(space, arch)
            entries.append(
                SubnetEntry(
                    name=label,
                    arch=arch.to_dict(),
                    flops=int(cost.flops),
                    params=int(cost.params),
                    activation_bytes=int(cost.activation_bytes),
                    weight_bytes=int(cost.weight_bytes),
                    models=(file,),
                )
            )
        classes = plan(space, subnets[0][2]).classifier.features_out
        write_manifest(
            folder,
            Manifest(
                name=name,
                target="cpu",
                input=InputSpec(shape=(3, size, size), color="RGB", mean=MEAN, std=STD),
                output=OutputSpec(classes=classes),
                labels=tuple(f"class {index}" for index in range(classes)),
                subnets=tuple(entries),
                notes=("random weights, for measuring speed only; accuracies are assigned",),
            ),
        )
    return out
