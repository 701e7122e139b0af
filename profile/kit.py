"""The measuring kit: a folder of ONNX nets and a manifest, which a device measures without torch or onnx.

Relies on ``onnx_graph.py`` to write the nets, so writing needs onnx; reading needs nothing. Times do not depend on
what the weights are, so all nets share one file of noise and a kit of fifty nets stays as small as one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deps.ground.console import require
from deps.ground.errors import DepsError, LatencyTableError
from deps.ground.files import read_json, whole_folder, write_json
from deps.profile.designs import checking_genes, designed_genes
from deps.serve.records import plain_from_record, record_from_plain
from deps.supernet.arch import ArchSpec
from deps.supernet.plan import NetworkPlan, parameter_shapes, plan
from deps.supernet.sampling import Genes, decode
from deps.supernet.space import SearchSpace

SCHEMA_VERSION = 1
MANIFEST, NOISE = "kit.json", "noise.bin"

Role: TypeAlias = Literal["designed", "anchor", "held_out"]
"""Designed nets are looked into, anchors fit the table to whole nets, held-out nets judge it."""

ANCHORS, HELD_OUT = 16, 16
"""How many random nets a resolution has in each of these roles; the corners of the space are held out besides."""

# Neither denormal nor infinite after a hundred layers: shifts of this size keep every map alive, and even a
# convolution of 512 channels amplifies by less than 2.
NOISE_STD = 0.05


@dataclass(frozen=True, slots=True)
class KitNet:
    """One net of a kit."""

    file: str
    role: Role
    arch: dict[str, Any]


@dataclass(frozen=True, slots=True)
class KitManifest:
    """What is in a kit."""

    space: dict[str, Any]
    target: str
    precision: str
    seed: int
    nets: tuple[KitNet, ...]
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Kit:
    """A kit that was read: its folder, its space, and its nets with their architectures."""

    folder: Path
    manifest: KitManifest
    space: SearchSpace
    archs: tuple[ArchSpec, ...]

    def at(self, resolution: int) -> Iterator[tuple[KitNet, ArchSpec]]:
        """Yield the nets of one resolution."""
        for net, arch in zip(self.manifest.nets, self.archs, strict=True):
            if arch.resolution == resolution:
                yield net, arch

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The resolutions of its nets, ascending."""
        return tuple(sorted({arch.resolution for arch in self.archs}))


def write_kit(
    folder: Path | str,
    space: SearchSpace,
    resolutions: Sequence[int],
    *,
    target: str = "cpu",
    seed: int = 0,
    replace: bool = False,
) -> Kit:
    """Write the nets that make a latency table, and return the kit.

    Args:
        folder: where the kit shall appear, whole or not at all.
        space: the search space.
        resolutions: which resolutions to measure.
        target: what the table will be for.
        seed: chooses the anchors and the held-out nets, and makes the noise.
        replace: whether an existing folder is exchanged.

    Raises:
        FileError: the place cannot be written.
        LatencyTableError: a resolution is not in the space.
        MissingExtraError: onnx is not installed.
    """
    require("onnx", "compile")
    for resolution in resolutions:
        if resolution not in space.resolutions:
            known = ", ".join(map(str, space.resolutions))
            raise LatencyTableError(f"resolution is {resolution}; choices in {space.name}: {known}")
    rng = np.random.default_rng(seed)
    chosen: list[tuple[Role, ArchSpec]] = []
    for resolution in sorted(set(resolutions)):
        anchors, held_out = checking_genes(space, resolution, rng, anchors=ANCHORS, held_out=HELD_OUT)
        designed = designed_genes(space, resolution)
        roles: tuple[tuple[Role, Genes], ...] = (("designed", designed), ("anchor", anchors), ("held_out", held_out))
        for role, genes in roles:
            chosen.extend((role, arch) for arch in decode(space, genes))
    largest = max(int(np.prod(shape)) for _, arch in chosen for shape in parameter_shapes(plan(space, arch)).values())
    noise = NOISE_STD * rng.standard_normal(largest, np.float32)

    nets = []
    with whole_folder(folder, replace=replace) as temporary:
        noise.tofile(temporary / NOISE)
        for number, (role, arch) in enumerate(chosen):
            file = f"{number:03d}-{role}-{arch.resolution}.onnx"
            _write_net(temporary / file, plan(space, arch), noise)
            nets.append(KitNet(file, role, arch.to_dict()))
        manifest = KitManifest(space.to_dict(), target, "fp32", seed, tuple(nets))
        write_json(temporary / MANIFEST, plain_from_record(manifest))
    return read_kit(folder)


def read_kit(folder: Path | str) -> Kit:
    """Return the kit in a folder.

    Raises:
        FileError: the manifest is missing or damaged.
        LatencyTableError: the manifest names no net, or one that is not there; the kit must be written again.
    """
    folder = Path(folder)
    remedy = "write the kit again"
    manifest: KitManifest = record_from_plain(
        KitManifest,
        read_json(folder / MANIFEST, schema_version=SCHEMA_VERSION),
        error=LatencyTableError,
        source=str(folder / MANIFEST),
        remedy=remedy,
    )
    try:
        space = SearchSpace.from_dict(manifest.space)
        archs = tuple(ArchSpec.from_dict(space, net.arch) for net in manifest.nets)
    except DepsError as error:
        raise LatencyTableError(f"{folder / MANIFEST} is damaged: {error}; {remedy}") from error
    if not archs:
        raise LatencyTableError(f"{folder / MANIFEST} names no nets; {remedy}")
    for file in (NOISE, *[net.file for net in manifest.nets]):
        if Path(file).name != file or not (folder / file).is_file():
            raise LatencyTableError(f"{folder / MANIFEST} names {file}, which is not in the folder; {remedy}")
    return Kit(folder, manifest, space, archs)


def _write_net(path: Path, subnet: NetworkPlan, noise: NDArray[np.float32]) -> None:
    """Write one net whose large weights all lie at the start of the shared file."""
    import onnx
    from onnx import TensorProto, external_data_helper

    from deps.supernet.onnx_graph import onnx_from_subnet

    model = onnx_from_subnet(subnet, noise_weights(subnet, noise), eps=0.0)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            size = len(tensor.raw_data)
            external_data_helper.set_external_data(tensor, NOISE, offset=0, length=size)
            tensor.ClearField("raw_data")
    onnx.save_model(model, path)


def noise_weights(subnet: NetworkPlan, noise: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Return weights that are noise, and BatchNorms that only shift: scale 1, statistics 0 and 1."""
    constant = {"norm.weight": 1.0, "norm.running_mean": 0.0, "norm.running_var": 1.0}
    weights: dict[str, NDArray[Any]] = {}
    for name, shape in parameter_shapes(subnet).items():
        kind = ".".join(name.rsplit(".", 2)[-2:])
        if kind in constant:
            weights[name] = np.full(shape, constant[kind], np.float32)
        else:
            weights[name] = noise[: int(np.prod(shape))].reshape(shape)
    return weights
