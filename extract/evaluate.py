"""Measure subnets: recalibrate BatchNorm, take top-1 and loss on validation images, and remember both.

Relies on a measurement being decided by the supernet's weights, the images and the settings, whose hash keys it in
``<run>/measurements.jsonl``. A line is appended whole after each subnet, so a killed search goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deps.extract.search import Values
from deps.ground.console import Story
from deps.ground.errors import RunError
from deps.supernet import ArchSpec, Supernet
from deps.supernet.evaluation import Accuracy, measure, recalibrated_subnet
from deps.supernet.network import Network
from deps.train.data import ImageData

CACHE_NAME = "measurements.jsonl"
BATCH_SIZE = 250


def supernet_sha256(supernet: Supernet) -> str:
    """Return a hash of a supernet's space and weights, whatever file they came from."""
    digest = hashlib.sha256(json.dumps(supernet.space.to_dict(), sort_keys=True).encode())
    for name, tensor in supernet.tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Measured(NamedTuple):
    """Several subnets as measured, one number each in either array."""

    top1: Values
    """Shares of right answers."""

    loss: Values
    """Mean cross-entropy of the labels."""


class Measurements:
    """The measurements of one supernet under one setting, kept in a file of JSON lines.

    Lines of other settings are left alone; a last line that a kill cut short is ignored and closed off. So is a line
    of the time before losses were kept: its subnet is measured again.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self.why_not_kept: str | None = None
        """Why results cannot be written to the file, once that was noticed."""

        self._known: dict[str, Accuracy] = {}
        self._is_cut_short = False
        if path is not None and path.exists():
            self._read(path)

    def get(self, arch: ArchSpec) -> Accuracy | None:
        """Return the top-1 and loss of a subnet; None when it was not measured yet."""
        return self._known.get(_arch_key(arch))

    def add(self, arch: ArchSpec, accuracy: Accuracy) -> None:
        """Remember a measurement, in the file too where it can be written."""
        self._known[_arch_key(arch)] = accuracy
        if self.path is None or self.why_not_kept is not None:
            return
        line = json.dumps({"key": self.key, "arch": arch.to_dict(), **accuracy._asdict()}) + "\n"
        try:
            # One write to a file opened for appending: lines of two searches at once do not mix.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, (("\n" if self._is_cut_short else "") + line).encode())
            finally:
                os.close(descriptor)
            self._is_cut_short = False
        except OSError as error:
            self.why_not_kept = f"{self.path}: {(error.strerror or str(error)).lower()}"

    def _read(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            self.why_not_kept = f"{path}: {(error.strerror or str(error)).lower()}"
            return
        self._is_cut_short = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                record = json.loads(line)
                if record["key"] == self.key:
                    accuracy = Accuracy(float(record["top1"]), float(record["loss"]))
                    self._known[json.dumps(record["arch"], sort_keys=True)] = accuracy
            except (ValueError, KeyError, TypeError):
                continue  # cut short by a kill, or without a loss; it is measured again


def _arch_key(arch: ArchSpec) -> str:
    return json.dumps(arch.to_dict(), sort_keys=True)


class Evaluator:
    """Takes subnets out of a supernet and measures them on validation images."""

    def __init__(
        self,
        supernet: Supernet,
        data: ImageData,
        *,
        cache: Path | None = None,
        calibration_images: int = 2000,
        image_limit: int | None = None,
    ) -> None:
        self.supernet, self.data = supernet, data
        self.calibration_images, self.image_limit = calibration_images, image_limit
        self.num_images = min(len(data.validation), image_limit or len(data.validation))
        self.num_measured = 0
        """Subnets that were measured here and now, rather than remembered."""

        self.supernet_sha256 = supernet_sha256(supernet)
        settings = {
            "supernet": self.supernet_sha256,
            "train": data.train.fingerprint(),
            "validation": data.validation.fingerprint(),
            "preprocessing": repr(data.preprocessing),
            "calibration_images": calibration_images,
            "images": self.num_images,
        }
        self.measurements = Measurements(cache, settings)
        # Calibration images of one resolution; those of all at once would not fit into memory at 224 pixels.
        self._calibration: tuple[int, list[Tensor]] | None = None

    def subnet(self, arch: ArchSpec) -> Network:
        """Return the recalibrated subnet, in evaluation mode."""
        return recalibrated_subnet(self.supernet, arch, self.calibration(arch.resolution))

    def calibration(self, resolution: int) -> list[Tensor]:
        """Return the training images that BatchNorm is recalibrated with, in batches."""
        if self._calibration is None or self._calibration[0] != resolution:
            batches = self.data.calibration(resolution, images=self.calibration_images)
            self._calibration = (resolution, batches)
        return self._calibration[1]

    def measure(self, archs: Sequence[ArchSpec], story: Story, what: str = "measuring subnets") -> Measured:
        """Return top-1 and loss on validation images of each subnet, in the order given.

        Raises:
            RunError: a subnet answers with what is no number.
        """
        unknown = {arch for arch in archs if self.measurements.get(arch) is None}
        # By resolution, so that images are scaled once each.
        todo = sorted(unknown, key=lambda arch: (arch.resolution, _arch_key(arch)))
        for arch in story.track(todo, what, total=len(todo), unit="subnet"):
            with torch.no_grad():
                batches = self.data.validation.batches(BATCH_SIZE, resolution=arch.resolution, limit=self.image_limit)
                accuracy = measure(self.subnet(arch), batches)
            if not math.isfinite(accuracy.loss):
                raise RunError(
                    f"the loss of subnet {arch.to_text()} is {accuracy.loss}; expected a number: the training of this "
                    "supernet diverged, train it again with a smaller learning rate"
                )
            had_place = self.measurements.why_not_kept is None
            self.measurements.add(arch, accuracy)
            self.num_measured += 1
            if had_place and self.measurements.why_not_kept is not None:
                story.warn(f"measurements are not kept for another time: {self.measurements.why_not_kept}")
        table = np.array([self.measurements.get(arch) for arch in archs], np.float64).reshape(-1, 2)
        return Measured(top1=table[:, 0], loss=table[:, 1])
