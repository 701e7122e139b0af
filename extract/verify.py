"""Run every exported graph before it is shipped: compare it with the torch subnet, and measure its accuracy.

Relies on onnxruntime on the CPU as the judge of all precisions. Integer kernels of a processor round in their own way,
so a graph that is meant for TensorRT runs here with its quantise and dequantise steps taken literally.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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
    """How a graph's answers compare with those of the torch subnet on the same images."""

    max_abs_error: float
    """Largest difference of any logit."""

    tolerance: float | None
    """What that may be; None where only accuracy counts."""

    same_answer: float
    """Share of images on which both name the same class."""

    top1: float
    """Share of images that the graph gets right."""

    images: int

    @property
    def is_within_tolerance(self) -> bool:
        """Whether no logit is further off than it may be."""
        return np.isfinite(self.max_abs_error) and (self.tolerance is None or self.max_abs_error <= self.tolerance)


class Session:
    """A graph in onnxruntime, on the CPU."""

    def __init__(self, model: onnx.ModelProto, precision: Precision) -> None:
        self._session = open_session(model, precision, is_literal=precision == "trt-int8")

    def __call__(self, x_NCHW: NDArray[Any]) -> NDArray[Any]:
        """Return the logits, shape (N, classes)."""
        return cast("NDArray[Any]", self._session.run(None, {INPUT: np.ascontiguousarray(x_NCHW)})[0])


def compare(model: onnx.ModelProto, precision: Precision, subnet: nn.Module, batches: Batches) -> Agreement:
    """Run a graph and the torch subnet on the same images.

    Raises:
        ExportError: the graph is not valid, or onnxruntime cannot load it.
        DataError: there was no image.
    """
    session = Session(model, precision)
    error = largest = 0.0
    same = right = images = 0
    for x_NCHW, labels_N, expected_NV in _answers(subnet, batches):
        found_NV = session(x_NCHW)
        difference = np.abs(found_NV - expected_NV)
        error = max(error, float(difference.max())) if np.isfinite(difference).all() else float("inf")
        largest = max(largest, float(np.abs(expected_NV).max()))
        same += int((found_NV.argmax(1) == expected_NV.argmax(1)).sum())
        right += int((found_NV.argmax(1) == labels_N).sum())
        images += len(labels_N)
    if images == 0:
        raise DataError("a graph cannot be compared without images; the split is empty")
    tolerance = TOLERANCE[precision] * largest if precision in TOLERANCE else None
    return Agreement(error, tolerance, same / images, right / images, images)


@torch.no_grad()
def _answers(subnet: nn.Module, batches: Batches) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    for x_NCHW, labels_N in batches:
        yield x_NCHW.numpy(), labels_N.numpy(), subnet(x_NCHW).numpy()
