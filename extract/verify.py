"""Run every exported graph before it is shipped: compare it with the torch subnet, and measure its accuracy.

Relies on onnxruntime on the CPU as the judge of all precisions. Integer kernels of a processor round in their own way,
so a graph that is meant for TensorRT runs here with its quantise and dequantise steps taken literally.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deps.extract.parallel import map_in_threads
from deps.extract.precision import widened
from deps.extract.session import open_session
from deps.ground.errors import DataError
from deps.serve.manifest import Precision
from deps.supernet.onnx_graph import INPUT

TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest error of a logit, as a share of the largest logit; the int8 precisions answer for their accuracy alone."""

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images (N, C, H, W) and labels (N,)."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a graph's answers compare with those of the torch subnet on the same images, and with the labels."""

    max_abs_error: float
    """Largest difference of any logit."""

    tolerance: float | None
    """What that may be; None where only accuracy counts."""

    same_answer: float
    """Share of the compared images on which both name the same class."""

    top1: float
    """Share of all images that the graph gets right."""

    images: int

    compared: int
    """How many of the first images torch answered too."""

    @property
    def is_within_tolerance(self) -> bool:
        """Whether no logit is further off than it may be."""
        return np.isfinite(self.max_abs_error) and (self.tolerance is None or self.max_abs_error <= self.tolerance)


class Session:
    """A graph in onnxruntime, on the CPU, in one thread."""

    def __init__(self, model: onnx.ModelProto, precision: Precision) -> None:
        self._session = open_session(model, precision, is_literal=precision == "trt-int8", num_threads=1)

    def __call__(self, x_NCHW: NDArray[Any]) -> NDArray[Any]:
        """Return the logits, shape (N, classes)."""
        return cast("NDArray[Any]", self._session.run(None, {INPUT: np.ascontiguousarray(x_NCHW)})[0])


@dataclass(frozen=True, eq=False)
class Candidate:
    """A graph that is judged; it is opened once, for however many splits it answers."""

    model: onnx.ModelProto
    precision: Precision

    def open(self) -> tuple[Session, Session]:
        """Return what answers beside torch, and what answers where torch answers no more."""
        return self.session, self.stand_in

    @cached_property
    def session(self) -> Session:
        """The graph itself, opened."""
        return Session(self.model, self.precision)

    @cached_property
    def stand_in(self) -> Session:
        """What answers where torch answers no more."""
        if self.precision != "trt-int8":
            return self.session
        # The processor has no kernels for quantising fp16, and takes three times as long.
        return Session(widened(self.model), self.precision)


class Judgement(NamedTuple):
    """What several graphs, and torch, made of the same images."""

    agreements: dict[Precision, Agreement]
    torch_top1: float
    """Share of the compared images that torch got right."""


def compare(model: onnx.ModelProto, precision: Precision, subnet: nn.Module, batches: Batches) -> Agreement:
    """Run a graph and the torch subnet on the same images.

    Raises:
        ExportError: the graph is not valid, or onnxruntime cannot load it.
        DataError: there was no image.
    """
    return judge([Candidate(model, precision)], subnet, batches).agreements[precision]


def judge(
    candidates: Sequence[Candidate], subnet: nn.Module, batches: Batches, *, compared: int | None = None
) -> Judgement:
    """Run several graphs on the same images, and the torch subnet on the first of them.

    Args:
        candidates: the graphs, each of another precision.
        subnet: in evaluation mode.
        batches: images and labels, gone through once.
        compared: torch answers batches until so many images are done; None means all.

    Raises:
        ExportError: a graph is not valid, or onnxruntime cannot load it.
        DataError: there was no image.
    """
    # Opened here, so that two threads do not open one graph twice.
    opened: dict[Precision, tuple[Session, Session]] = {each.precision: each.open() for each in candidates}

    def answer(batch: _Batch) -> dict[Precision, NDArray[Any]]:
        is_compared = batch.expected_NV is not None
        return {name: (own if is_compared else other)(batch.x_NCHW) for name, (own, other) in opened.items()}

    tallies: dict[Precision, _Tally] = {name: _Tally(name) for name in opened}
    torch_right = torch_images = 0
    for batch, answers in map_in_threads(lambda b: (b, answer(b)), _with_torch(subnet, batches, compared)):
        for name, found_NV in answers.items():
            tallies[name].add(found_NV, batch)
        if batch.expected_NV is not None:
            torch_right += int((batch.expected_NV.argmax(1) == batch.labels_N).sum())
            torch_images += len(batch.labels_N)
    if torch_images == 0:
        raise DataError("a graph cannot be compared without images; the split is empty")
    agreements: dict[Precision, Agreement] = {name: tally.agreement() for name, tally in tallies.items()}
    return Judgement(agreements, torch_right / torch_images)


class _Batch(NamedTuple):
    x_NCHW: NDArray[Any]
    labels_N: NDArray[Any]
    expected_NV: NDArray[Any] | None
    """Torch's logits, where it answered."""


def _with_torch(subnet: nn.Module, batches: Batches, compared: int | None) -> Iterator[_Batch]:
    done = 0
    for x_NCHW, labels_N in batches:
        expected_NV = None
        if compared is None or done < compared:
            with torch.no_grad():
                expected_NV = subnet(x_NCHW).numpy()
        done += len(labels_N)
        yield _Batch(np.ascontiguousarray(x_NCHW.numpy()), labels_N.numpy(), expected_NV)


class _Tally:
    """What is known of one graph after some batches."""

    def __init__(self, precision: Precision) -> None:
        self._precision = precision
        self._error = self._largest = 0.0
        self._same = self._right = self._compared = self._images = 0

    def add(self, found_NV: NDArray[Any], batch: _Batch) -> None:
        """Take one batch of answers into account."""
        if not np.isfinite(found_NV).all():
            self._error = float("inf")
        self._right += int((found_NV.argmax(1) == batch.labels_N).sum())
        self._images += len(batch.labels_N)
        if batch.expected_NV is not None:
            self._error = max(self._error, float(np.abs(found_NV - batch.expected_NV).max(initial=0.0)))
            self._largest = max(self._largest, float(np.abs(batch.expected_NV).max()))
            self._same += int((found_NV.argmax(1) == batch.expected_NV.argmax(1)).sum())
            self._compared += len(batch.labels_N)

    def agreement(self) -> Agreement:
        """Return the sums as shares."""
        tolerance = TOLERANCE[self._precision] * self._largest if self._precision in TOLERANCE else None
        error = self._error if np.isfinite(self._error) else float("inf")
        return Agreement(
            error,
            tolerance,
            self._same / self._compared,
            self._right / self._images,
            self._images,
            self._compared,
        )


def top1_of(model: onnx.ModelProto, precision: Precision, batches: Batches) -> float:
    """Return the share of images that a graph in float32 arithmetic gets right, quantised or not.

    Raises:
        ExportError: the graph is not valid, or onnxruntime cannot load it.
    """
    session = open_session(model, precision, is_literal=precision == "trt-int8", num_threads=1)

    def right(batch: tuple[Tensor, Tensor]) -> tuple[int, int]:
        x_NCHW, labels_N = batch
        logits_NV = session.run(None, {INPUT: np.ascontiguousarray(x_NCHW.numpy())})[0]
        return int((logits_NV.argmax(1) == labels_N.numpy()).sum()), len(labels_N)

    counts = list(map_in_threads(right, batches))
    return sum(hits for hits, _ in counts) / sum(images for _, images in counts)


def compare_graphs(
    candidates: Sequence[Candidate], reference: Session, batches: Batches, *, compared: int | None = None
) -> Judgement:
    """Run several graphs on the same images, with the fp32 graph in torch's place; otherwise as ``judge``.

    Raises:
        ExportError: a graph is not valid, or onnxruntime cannot load it.
        DataError: there was no image.
    """

    class Stand(nn.Module):
        """Answers as torch would, through onnxruntime."""

        def forward(self, x_NCHW: Tensor) -> Tensor:
            return torch.from_numpy(reference(x_NCHW.numpy()))

    return judge(candidates, Stand(), batches, compared=compared)
