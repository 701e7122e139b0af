"""Measure subnets: recalibrate BatchNorm, take top-1 and loss on validation images, and remember both.

Relies on a measurement being decided by the supernet's weights, the images and the settings, whose hash keys it in
``<run>/measurements.jsonl``. A line is appended whole after each subnet, so a killed search goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deps.extract.crew import Crew
from deps.extract.search import Values
from deps.extract.shelf import Shelf
from deps.ground.console import Story
from deps.ground.errors import RunError
from deps.supernet import ArchSpec, Supernet
from deps.supernet.evaluation import Accuracy, measure, recalibrated_subnet
from deps.supernet.network import Network
from deps.train.data import ImageData

CACHE_NAME = "measurements.jsonl"
BATCH_SIZE = 250
"""Most images that are measured at once."""

BATCH_PIXELS = 32 * 224**2
"""Pixels of the images that are measured at once, unless they are small: with feature maps, half a gigabyte."""


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

    def __init__(self, path: Path | None, settings: dict[str, Any], crew: Crew | None = None) -> None:
        self.path = path
        self.key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self.why_not_kept: str | None = None
        """Why results cannot be written to the file, once that was noticed."""

        self._known: dict[str, Accuracy] = {}
        self._is_cut_short = False
        if path is not None and path.exists():
            self._read(path)
        if crew is not None:
            # One process may have read a line that another wrote since; all must start alike to share out the work.
            self._known = crew.agree(self._known)

    def learn(self, known: Iterable[tuple[ArchSpec, Accuracy | None]]) -> None:
        """Take over measurements that another process made and wrote down."""
        self._known.update({_arch_key(arch): accuracy for arch, accuracy in known if accuracy is not None})

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
        device: torch.device | str = "cpu",
        crew: Crew | None = None,
        has_images: bool = True,
    ) -> None:
        """Prepare to measure.

        Args:
            supernet: where subnets are taken from.
            data: images to recalibrate and to measure with.
            cache: file in which measurements are remembered; None remembers nothing.
            calibration_images: how many training images BatchNorm is recalibrated with.
            device: where subnets run.
            crew: the processes that share the work.
            has_images: False where ``data`` is a stand-in: subnets then keep the checkpoint's statistics.
        """
        self.supernet, self.data = supernet, data
        self.calibration_images, self.num_images = calibration_images, len(data.validation)
        self.num_measured = 0
        """Subnets that were measured here and now, rather than remembered."""

        self.has_images = has_images
        self.device, self.crew = torch.device(device), crew or Crew()
        self._source = supernet if self.device.type == "cpu" else supernet.to(self.device)
        self.supernet_sha256 = supernet_sha256(supernet)
        settings = {
            "supernet": self.supernet_sha256,
            "train": data.train.fingerprint(),
            "validation": data.validation.fingerprint(),
            "preprocessing": repr(data.preprocessing),
            "calibration_images": calibration_images,
            "images": self.num_images,
        }
        self.measurements = Measurements(cache, settings, self.crew)
        # Images of one resolution; those of all at once would be too many.
        self._shelves: dict[Literal["calibration", "validation"], tuple[int, Shelf]] = {}

    def subnet(self, arch: ArchSpec) -> Network:
        """Return the subnet on the CPU, in evaluation mode, recalibrated where there are images."""
        if not self.has_images:
            return self.supernet.subnet(arch)
        return self._recalibrated(arch).cpu()

    def _recalibrated(self, arch: ArchSpec) -> Network:
        batches = (x_NCHW.to(self.device) for x_NCHW, _ in self._shelf("calibration", arch.resolution))
        return recalibrated_subnet(self._source, arch, batches)

    def _shelf(self, purpose: Literal["calibration", "validation"], resolution: int) -> Shelf:
        """Return the images of a purpose at one resolution; those of another are let go."""
        known = self._shelves.get(purpose)
        if known is not None and known[0] == resolution:
            return known[1]
        pixels = self.supernet.space.in_channels * resolution**2
        if purpose == "calibration":
            count, make = self.calibration_images, lambda: self._calibration(resolution)
        else:
            count, make = self.num_images, lambda: self._validation(resolution)
        shelf = Shelf(make, 4 * pixels * count)
        self._shelves[purpose] = (resolution, shelf)
        return shelf

    def _calibration(self, resolution: int) -> Iterator[tuple[Tensor, Tensor]]:
        for x_NCHW in self.data.calibration(resolution, images=self.calibration_images):
            yield x_NCHW, torch.zeros(0)

    def _validation(self, resolution: int) -> Iterator[tuple[Tensor, Tensor]]:
        return self.data.validation.batches(batch_size(resolution), resolution=resolution)

    def measure(self, archs: Sequence[ArchSpec], story: Story, what: str = "measuring subnets") -> Measured:
        """Return top-1 and loss on validation images of each subnet, in the order given.

        Each process of the crew measures a share, writes down each result as it comes, and learns those of the others.

        Raises:
            RunError: a subnet answers with what is no number, or another process stopped.
        """
        unknown = {arch for arch in archs if self.measurements.get(arch) is None}
        # By resolution, so that images are scaled once each.
        todo = sorted(unknown, key=lambda arch: (arch.resolution, _arch_key(arch)))
        mine = self.crew.share(todo)
        for arch in story.track(mine, what, total=len(mine), unit="subnet"):
            accuracy = self._measured(arch)
            had_place = self.measurements.why_not_kept is None
            self.measurements.add(arch, accuracy)
            self.num_measured += 1
            if had_place and self.measurements.why_not_kept is not None:
                story.warn(f"measurements are not kept for another time: {self.measurements.why_not_kept}")
        if todo:
            for theirs in self.crew.gather([(arch, self.measurements.get(arch)) for arch in mine]):
                self.measurements.learn(theirs)
        table = np.array([self.measurements.get(arch) for arch in archs], np.float64).reshape(-1, 2)
        return Measured(top1=table[:, 0], loss=table[:, 1])

    def _measured(self, arch: ArchSpec) -> Accuracy:
        batches = (
            (x_NCHW.to(self.device), labels_N.to(self.device))
            for x_NCHW, labels_N in self._shelf("validation", arch.resolution)
        )
        accuracy = measure(self._recalibrated(arch), batches)
        if not math.isfinite(accuracy.loss):
            raise RunError(
                f"the loss of subnet {arch.to_text()} is {accuracy.loss}; expected a number: the training of this "
                "supernet diverged, train it again with a smaller learning rate"
            )
        return accuracy


def batch_size(resolution: int) -> int:
    """Return how many images are measured at once: as many pixels whatever their size, so that feature maps fit."""
    return min(max(BATCH_PIXELS // resolution**2, 1), BATCH_SIZE)


def measuring_device(name: str) -> torch.device:
    """Return the device that ``--device`` names; of several GPUs, each process of a crew takes its own.

    Raises:
        RunError: it is unknown, or not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise RunError(f"unknown device {name!r}; known: auto, cpu, cuda")
    if name == "cpu" or not torch.cuda.is_available():
        if name == "cuda":
            raise RunError("no CUDA device was found here; use --device cpu")
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
