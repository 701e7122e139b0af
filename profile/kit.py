"""The measuring kit: a folder of ONNX nets and a manifest, which a device measures without torch or onnx.

Relies on ``onnx_graph.py`` and ``precisions.py`` to write the nets, so writing needs onnx; reading needs nothing. Times
do not depend on what the weights are, so all nets of a precision take them from one file of noise, and a kit of
hundreds of nets stays as small as one of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from deps.ground.console import require
from deps.ground.errors import DepsError, LatencyTableError
from deps.ground.files import read_json, sha256_of, whole_folder, write_json
from deps.profile.designs import checking_genes, designed_genes
from deps.serve.manifest import Precision
from deps.serve.records import plain_from_record, record_from_plain
from deps.supernet.arch import ArchSpec
from deps.supernet.pieces import LinearPlan, Piece, PoolPlan
from deps.supernet.plan import NetworkPlan, parameter_shapes, plan
from deps.supernet.sampling import Genes, decode
from deps.supernet.space import SearchSpace

SCHEMA_VERSION = 2
MANIFEST = "kit.json"

Role: TypeAlias = Literal["designed", "anchor", "held_out", "block", "probe"]
"""Designed nets are looked into, anchors fit the table to whole nets, held-out nets judge it. Blocks are single pieces,
for runtimes that cannot be looked into. The probe, a piece too, runs between the others and tells how fast the device
is at that moment."""

ANCHORS, HELD_OUT = 16, 16
"""How many random nets a resolution has in each of these roles; the corners of the space are held out besides."""

PROBE_SHARE = 0.015
"""About which share of an anchor's work the probe does."""

SLACK = 1 << 16
"""Numbers that a shared file holds beyond the largest layer."""

REWRITE = "write the kit again with deps-profile kit"


@dataclass(frozen=True, slots=True)
class KitNet:
    """One net of a kit, which stands in the folder of each precision under the same name."""

    name: str
    role: Role
    resolution: int
    """Of the image; a block stands at the first resolution that it occurs at."""

    arch: dict[str, Any] | None
    """The subnet; None for a block and the probe."""

    piece: str | None
    """Key of the piece that a block, or the probe, consists of."""


@dataclass(frozen=True, slots=True)
class KitManifest:
    """What is in a kit."""

    space: dict[str, Any]
    target: str
    precisions: tuple[Precision, ...]
    """One folder each, the best for the target first."""

    seed: int
    nets: tuple[KitNet, ...]
    sha256: dict[str, str]
    """Hash of every file of the kit, by its path."""

    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Kit:
    """A kit that was read: its folder, its space, and its nets with their architectures."""

    folder: Path
    manifest: KitManifest
    space: SearchSpace
    archs: dict[str, ArchSpec]
    """Of each whole net, by its name."""

    def path(self, net: KitNet, precision: Precision) -> Path:
        """Return the file of a net in a precision."""
        return self.folder / precision / f"{net.name}.onnx"

    def at(self, resolution: int, *roles: Role) -> Iterator[KitNet]:
        """Yield the nets of one resolution in some roles."""
        return (net for net in self.manifest.nets if net.resolution == resolution and net.role in roles)

    def plan_of(self, net: KitNet) -> NetworkPlan:
        """Return the layers of a whole net."""
        return plan(self.space, self.archs[net.name])

    def layers(self, net: KitNet) -> NetworkPlan | Piece:
        """Return the layers of any net."""
        return self.plan_of(net) if net.arch is not None else self._pieces()[net.piece or ""]

    def _pieces(self) -> dict[str, Piece]:
        return _pieces_of(tuple(plan(self.space, arch) for arch in self.archs.values()))

    @property
    def probe(self) -> KitNet:
        """The net that tells how fast the device is."""
        return next(net for net in self.manifest.nets if net.role == "probe")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The resolutions of its nets, ascending."""
        return tuple(sorted({net.resolution for net in self.manifest.nets}))

    @property
    def identity(self) -> str:
        """Hash of the manifest, which holds the hash of everything else."""
        return sha256_of(self.folder / MANIFEST)


def write_kit(
    folder: Path | str,
    space: SearchSpace,
    resolutions: Sequence[int],
    *,
    target: str = "cpu",
    precisions: Sequence[Precision] = ("fp32",),
    blocks: bool = False,
    seed: int = 0,
    replace: bool = False,
) -> Kit:
    """Write the nets that make a latency table, and return the kit.

    Args:
        folder: where the kit shall appear, whole or not at all.
        space: the search space.
        resolutions: which resolutions to measure.
        target: what the table will be for.
        precisions: in which precisions to write each net, the target's best first.
        blocks: whether to write each piece alone too, for runtimes without times of single nodes.
        seed: chooses the anchors and the held-out nets, and makes the noise.
        replace: whether an existing folder is exchanged.

    Raises:
        FileError: the place cannot be written.
        LatencyTableError: a resolution is not in the space, or a precision is unknown.
        MissingExtraError: onnx is not installed.
    """
    require("onnx", "compile")
    from deps.profile.precisions import NOISE_STD, shared_files, shared_values

    for resolution in resolutions:
        if resolution not in space.resolutions:
            known = ", ".join(map(str, space.resolutions))
            raise LatencyTableError(f"resolution is {resolution}; choices in {space.name}: {known}")
    rng = np.random.default_rng(seed)
    nets, archs, pieces = _chosen(space, sorted(set(resolutions)), rng, blocks=blocks)
    plans = {name: plan(space, arch) for name, arch in archs.items()}
    # One number for each weight of the largest layer, wherever in the file it begins.
    size = max(int(np.prod(shape)) for subnet in plans.values() for shape in parameter_shapes(subnet).values())
    noise = NOISE_STD * rng.standard_normal(size + SLACK, np.float32)

    with whole_folder(folder, replace=replace) as temporary:
        for precision in dict.fromkeys(precisions):
            (temporary / precision).mkdir()
            for net in nets:
                what = plans[net.name] if net.arch is not None else pieces[net.piece or ""]
                (temporary / precision / f"{net.name}.onnx").write_bytes(_serialized(what, precision))
            for file in shared_files(precision):
                (temporary / precision / file).write_bytes(shared_values(file, noise))
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        hashes = {path.relative_to(temporary).as_posix(): sha256_of(path) for path in files}
        manifest = KitManifest(
            space.to_dict(), target, tuple(dict.fromkeys(precisions)), seed, tuple(nets), hashes, SCHEMA_VERSION
        )
        write_json(temporary / MANIFEST, plain_from_record(manifest))
    return read_kit(folder)


def _chosen(
    space: SearchSpace, resolutions: Sequence[int], rng: np.random.Generator, *, blocks: bool
) -> tuple[list[KitNet], dict[str, ArchSpec], dict[str, Piece]]:
    """Return the nets of a kit, the architectures of whole ones by name, and all pieces by key."""
    nets: list[KitNet] = []
    archs: dict[str, ArchSpec] = {}
    pieces: dict[str, Piece] = {}
    alone: set[str] = set()
    probe: Piece | None = None
    for resolution in resolutions:
        anchors, held_out = checking_genes(space, resolution, rng, anchors=ANCHORS, held_out=HELD_OUT)
        designed = designed_genes(space, resolution)
        roles: dict[Role, Genes] = {"designed": designed, "anchor": anchors, "held_out": held_out}
        chosen: list[tuple[Role, ArchSpec]] = [(r, arch) for r, genes in roles.items() for arch in decode(space, genes)]
        if probe is None:
            probe = _probe(plan(space, chosen[len(designed) + len(anchors) // 2][1]))
            pieces[probe.key] = probe
            nets.append(KitNet("probe", "probe", resolution, None, probe.key))
        for number, (role, arch) in enumerate(chosen):
            name = f"{resolution}-{number:02d}-{role}"
            nets.append(KitNet(name, role, resolution, arch.to_dict(), None))
            archs[name] = arch
        for arch in decode(space, designed) if blocks else ():
            for piece in plan(space, arch).pieces():
                if piece.key not in alone:
                    alone.add(piece.key)
                    pieces[piece.key] = piece
                    nets.append(KitNet(f"block-{len(alone):04d}", "block", resolution, None, piece.key))
    return nets, archs, pieces


def _probe(anchor: NetworkPlan) -> Piece:
    """Return the piece of a net that does about the share of its work that a probe should."""
    total = sum(piece.macs for piece in anchor.pieces())
    candidates = [piece for piece in anchor.pieces() if not isinstance(piece, PoolPlan | LinearPlan)]
    return min(candidates, key=lambda piece: abs(piece.macs / total - PROBE_SHARE))


def _serialized(what: NetworkPlan | Piece, precision: Precision) -> bytes:
    """Return one net as ONNX bytes whose weights lie in the shared files."""
    from deps.profile.precisions import WEIGHTS, in_precision
    from deps.supernet.onnx_graph import onnx_from_piece, onnx_from_subnet

    if isinstance(what, NetworkPlan):
        model = onnx_from_subnet(what, WEIGHTS, eps=0.0)
    else:
        model = onnx_from_piece(what, WEIGHTS, eps=0.0)
    return bytes(in_precision(model, precision).SerializeToString(deterministic=True))


def read_kit(folder: Path | str) -> Kit:
    """Return the kit in a folder, every file of it checked.

    Raises:
        FileError: the manifest is missing or damaged.
        LatencyTableError: the manifest names no net, or a file is missing or altered; the kit must be written again.
    """
    folder = Path(folder)
    source = folder / MANIFEST
    plain = read_json(source, schema_version=SCHEMA_VERSION)
    manifest = record_from_plain(KitManifest, plain, error=LatencyTableError, source=str(source), remedy=REWRITE)
    if not any(net.role == "probe" for net in manifest.nets):
        raise LatencyTableError(f"{source} names no probe; {REWRITE}")
    for net in manifest.nets:
        for precision in manifest.precisions:
            if f"{precision}/{net.name}.onnx" not in manifest.sha256:
                raise LatencyTableError(f"{source} holds no hash of {precision}/{net.name}.onnx; {REWRITE}")
    for file, expected in manifest.sha256.items():
        path = folder / file
        if ".." in Path(file).parts or Path(file).is_absolute() or not path.is_file():
            raise LatencyTableError(f"{source} names {file}, which is not in the folder; {REWRITE}")
        if sha256_of(path) != expected:
            raise LatencyTableError(f"{path} was altered or cut short; copy the kit again, or {REWRITE}")
    return _kit(folder, manifest)


@functools.lru_cache(maxsize=4)
def _pieces_of(plans: tuple[NetworkPlan, ...]) -> dict[str, Piece]:
    return {piece.key: piece for subnet in plans for piece in subnet.pieces()}


def _kit(folder: Path, manifest: KitManifest) -> Kit:
    try:
        space = SearchSpace.from_dict(manifest.space)
        archs = {net.name: ArchSpec.from_dict(space, net.arch) for net in manifest.nets if net.arch is not None}
    except DepsError as error:
        raise LatencyTableError(f"{folder / MANIFEST} is damaged: {error}; {REWRITE}") from error
    kit = Kit(folder, manifest, space, archs)
    unknown = [net.piece for net in manifest.nets if net.arch is None and net.piece not in kit._pieces()]
    if unknown:
        raise LatencyTableError(f"{folder / MANIFEST} names the piece {unknown[0]!r}, which no net has; {REWRITE}")
    return kit
