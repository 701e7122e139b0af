"""Verify a bundle long after it was written: hash every file, run every model, hold both against the manifest.

Relies on nothing of the extraction being at hand but the bundle. With images, accuracies are counted again; with the
run, the torch subnet is made again and every logit compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from deps.extract.evaluate import Evaluator
from deps.extract.images import Images
from deps.extract.session import first_line, open_session
from deps.extract.verify import Candidate, Judgement, compare_graphs, judge
from deps.ground.console import Story
from deps.ground.errors import BundleError, DepsError, ExportError
from deps.ground.files import read_json
from deps.serve.bundle import Bundle
from deps.serve.engines.compose import with_raw_input
from deps.serve.engines.header import read_header
from deps.serve.manifest import MANIFEST_NAME, EngineFile, Manifest, ModelFile, Precision, SubnetEntry
from deps.supernet import ArchSpec
from deps.supernet.network import Network
from deps.train.run import Run


class Finding(NamedTuple):
    """What was found of one file."""

    path: str
    checks: tuple[str, ...]
    """What was checked and held."""

    mismatch: str | None
    """What did not hold."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found of every file that a manifest vouches for."""

    bundle: Path
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]
    """What could not be checked, and what would be needed."""

    @property
    def mismatches(self) -> list[Finding]:
        """The files that are not what the manifest says."""
        return [finding for finding in self.findings if finding.mismatch]

    def to_text(self) -> str:
        """Return a line for each file."""
        lines = [
            f"{'MISMATCH' if f.mismatch else 'ok':8}  {f.path}: {f.mismatch or ', '.join(f.checks)}"
            for f in self.findings
        ]
        wrong = len(self.mismatches)
        verdict = f"{wrong} of {len(self.findings)} files do not hold" if wrong else "every file holds"
        notes = [f"not checked: {note}" for note in self.unchecked]
        return "\n".join([*lines, *notes, f"{self.bundle}: {verdict}"])

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        files = [{"path": f.path, "checks": list(f.checks), "mismatch": f.mismatch} for f in self.findings]
        return {
            "bundle": str(self.bundle),
            "holds": not self.mismatches,
            "files": files,
            "unchecked": list(self.unchecked),
        }


def verify_bundle(path: Path, story: Story, *, run: Run | None = None, data: Path | None = None) -> VerifyReport:
    """Check every file of a bundle against its manifest.

    Args:
        path: the bundle.
        story: told of each subnet.
        run: the run that it was made from; gives images, and the torch subnet.
        data: a folder of pictures in place of the run's.

    Raises:
        BundleError: there is no manifest, or it cannot be read.
        DataError: the images cannot be used.
    """
    if not (path / MANIFEST_NAME).is_file():
        raise BundleError(
            f"{path} holds no {MANIFEST_NAME}; expected a bundle; name the folder that deps-extract wrote"
        )
    manifest = Manifest.from_dict(read_json(path / MANIFEST_NAME), source=str(path / MANIFEST_NAME))
    checker = _Checker(Bundle(path.resolve(), manifest), run, data, story)
    findings = tuple(checker.findings())
    return VerifyReport(path, findings, tuple(dict.fromkeys(checker.unchecked)))


class _Checker:
    """Goes through the files of one bundle."""

    def __init__(self, bundle: Bundle, run: Run | None, data: Path | None, story: Story) -> None:
        self._bundle, self._run, self._story = bundle, run, story
        self.unchecked: list[str] = []
        self._images: Images | None = None
        self._compared: int | None = None
        if run is None:
            self.unchecked.append("accuracies and logits against torch; name the run with --supernet RUN")
            return
        checks = bundle.manifest.provenance.get("checks", {})
        seed = int(bundle.manifest.provenance.get("source", {}).get("seed", 0))
        resolution = bundle.manifest.input.shape[1]
        checks = checks if isinstance(checks, dict) else {}
        self._data = run.data(data)
        self._images = Images(self._data, resolution, seed=seed, judged=checks.get("validation_images"))
        self._compared = checks.get("compared_with_torch", self._images.compared)

    def findings(self) -> Iterator[Finding]:
        """Yield what is found of each file."""
        manifest = self._bundle.manifest
        subnets = self._story.track(manifest.subnets, "verifying", total=len(manifest.subnets), unit="subnet")
        for subnet in subnets:
            yield from self._subnet(subnet)
        if manifest.raw_input is not None:
            yield self._guarded(manifest.raw_input.path, self._raw_input)
        for engine in manifest.engines:
            yield self._guarded(engine.path, lambda e=engine: self._engine(e))

    def _guarded(self, path: str, check: Any) -> Finding:
        """Run a check; what it refuses is a mismatch of that file."""
        try:
            return Finding(path, tuple(check()), None)
        except DepsError as error:
            return Finding(path, (), str(error))
        except Exception as error:  # a graph that was tampered with makes libraries raise whatever they like
            return Finding(path, (), f"cannot be run: {first_line(error)}; expected an answer; make the bundle again")

    def _subnet(self, subnet: SubnetEntry) -> Iterator[Finding]:
        loaded: dict[Precision, onnx.ModelProto] = {}
        found: dict[Precision, Finding] = {}
        for file in subnet.models:

            def load(file: ModelFile = file) -> Iterator[str]:
                content = self._bundle.read_bytes(file)
                yield "hash"
                loaded[file.precision] = self._model(content, file)
                yield "valid ONNX, runs"

            found[file.precision] = self._guarded(file.path, load)
            if found[file.precision].mismatch:
                loaded.pop(file.precision, None)
        judged = self._judged(subnet, loaded)
        for file in subnet.models:
            finding = found[file.precision]
            if finding.mismatch is None and judged is not None:
                finding = self._held(file, finding, judged)
            yield finding

    def _model(self, content: bytes, file: ModelFile) -> onnx.ModelProto:
        """Return a model whose inputs and outputs are the manifest's, and which answers with numbers."""
        manifest = self._bundle.manifest
        try:
            model = onnx.load_from_string(content)
        except Exception as error:  # protobuf has errors of its own
            raise ExportError(f"{file.path} is no ONNX file; expected one; copy the bundle again") from error
        session = open_session(model, file.path, is_literal=file.precision == "trt-int8", num_threads=1)
        images = np.random.default_rng(0).normal(size=(2, *manifest.input.shape)).astype(np.float32)
        taken = {t.name: tuple(t.shape[1:]) for t in session.get_inputs()}
        expected = {manifest.input.name: manifest.input.shape}
        if taken != expected:
            raise ExportError(f"{file.path} takes {taken}; expected {expected}, as the manifest says; make it again")
        (logits,) = session.run([manifest.output.name], {manifest.input.name: images})
        if logits.shape != (2, manifest.output.classes) or not np.isfinite(logits).all():
            raise ExportError(
                f"{file.path} gives {logits.shape}, finite: {bool(np.isfinite(logits).all())}; "
                f"expected numbers of shape (2, {manifest.output.classes}); make it again"
            )
        return model

    def _judged(
        self, subnet: SubnetEntry, loaded: dict[Precision, onnx.ModelProto]
    ) -> tuple[Judgement, Judgement] | None:
        """Return how the files do on validation and test images, beside torch or else the fp32 file."""
        if self._images is None or "fp32" not in loaded:
            return None
        network = self._network(subnet)
        candidates = {precision: Candidate(model, precision) for precision, model in loaded.items()}
        graphs = list(candidates.values())
        splits = (self._images.validation, self._images.test)
        if network is None:
            reference = candidates["fp32"].session
            first, second = (compare_graphs(graphs, reference, split, compared=self._compared) for split in splits)
        else:
            first, second = (judge(graphs, network, split, compared=self._compared) for split in splits)
        return first, second

    @cached_property
    def _evaluator(self) -> Evaluator:
        """What makes subnets again, from the images that they were made from."""
        assert self._run is not None
        return Evaluator(self._run.supernet(), self._data, calibration_images=self._run.calibration_images)

    def _network(self, subnet: SubnetEntry) -> Network | None:
        """Return the torch subnet made again; None where the run is another, or the subnet was trained further."""
        assert self._run is not None
        source = self._bundle.manifest.provenance.get("source", {})
        if source.get("finetuned", {}).get(subnet.name, {}).get("is_kept"):
            self.unchecked.append("logits against torch: the subnet was trained further; fp32 stands for it")
            return None
        evaluator = self._evaluator
        if source.get("supernet_sha256") != evaluator.supernet_sha256:
            self.unchecked.append(f"logits against torch: {self._run.folder} is not the run that the bundle names")
            return None
        return evaluator.subnet(ArchSpec.from_dict(evaluator.supernet.space, subnet.arch))

    def _held(self, file: ModelFile, finding: Finding, judged: tuple[Judgement, Judgement]) -> Finding:
        """Hold a file's accuracies and errors against what the manifest recorded."""
        validation, test = (judgement.agreements[file.precision] for judgement in judged)
        checks, wrong = list(finding.checks), []
        for name, recorded, now in (
            ("validation top-1", file.top1_validation, validation),
            ("test top-1", file.top1, test),
        ):
            if recorded is None:
                continue
            if abs(recorded - now.top1) * now.images > _images_off(file.precision, now.images):
                wrong.append(f"{name} is {100 * now.top1:.2f} %, the manifest says {100 * recorded:.2f} %")
            else:
                checks.append(f"{name} {100 * now.top1:.2f} % of {now.images}")
        error = max(validation.max_abs_error, test.max_abs_error)
        if file.max_abs_error is not None:
            allowed = 1.5 * file.max_abs_error + 1e-3
            if error > allowed:
                wrong.append(f"a logit is off by {error:.3g}, the manifest says {file.max_abs_error:.3g}")
            else:
                checks.append(f"largest error {error:.2g}")
        return Finding(file.path, tuple(checks), "; ".join(wrong) or None)

    def _raw_input(self) -> Iterator[str]:
        manifest, raw = self._bundle.manifest, self._bundle.manifest.raw_input
        assert raw is not None
        content = self._bundle.read_bytes(raw)
        yield "hash"
        spec, file = manifest.input, manifest.default_subnet.models[0]
        joined = onnx.load_from_string(with_raw_input(self._bundle.read_bytes(file), content))
        session = open_session(joined, "raw-pixel", num_threads=1)
        alone = open_session(onnx.load_from_string(self._bundle.read_bytes(file)), file.path, num_threads=1)
        pixels = np.random.default_rng(0).integers(0, 256, (2, *spec.shape), dtype=np.uint8)
        shape = (1, -1, 1, 1)
        mean, std = (np.array(values, np.float32).reshape(shape) for values in (spec.mean, spec.std))
        (found,) = session.run(None, {raw.name: pixels})
        (expected,) = alone.run(None, {spec.name: (pixels / np.float32(255) - mean) / std})
        if not np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max():
            raise ExportError(f"{raw.path} normalises otherwise than the manifest says; make the bundle again")
        yield "normalises as the manifest says"

    def _engine(self, engine: EngineFile) -> Iterator[str]:
        content = self._bundle.read_bytes(engine)
        yield "hash"
        header = read_header(content)
        if (header.flavour, header.size_bytes) != (engine.runtime, engine.size_bytes):
            raise BundleError(
                f"{engine.path} says it is {header.size_bytes} bytes of {header.flavour}; expected "
                f"{engine.size_bytes} of {engine.runtime}; build it again with deps-serve build"
            )
        yield f"header ({header.flavour} {header.version_text})"
        subnet = self._bundle.manifest.subnet(engine.subnet)
        source = subnet.model(engine.precision)
        if source is None or source.sha256 != engine.built_from:
            raise BundleError(
                f"{engine.path} was built from another {engine.precision} file; expected this bundle's; build it again"
            )
        yield "built from this bundle's file"
        self.unchecked.append(f"{engine.path} on a GPU; deps-serve bench runs it there")


def _images_off(precision: Precision, images: int) -> float:
    """Return by how many images a count of right answers may differ from the one that was recorded.

    Another processor may round one image to the other side, and with trt-int8 a few more, at the edges of steps: as
    much is allowed as if one answer in a hundred came out right or wrong by chance, three standard deviations. More
    lies between fp16 and float32 arithmetic, 137 of 5,000 answers in one case: so both times the same one counts.
    """
    return 1.5 + (3 * math.sqrt(images / 100) if precision == "trt-int8" else 0)
