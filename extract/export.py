"""Export subnets in every precision, run each file against the torch subnet, and decide which are good enough to ship.

Relies on ``precision.py`` for the graphs, ``verify.py`` for the judgement and ``repair.py`` where int8 loses too much;
what is left out keeps its reason. A family shares the images, which are decoded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper

from deps.extract.calibration import Calibration, observe
from deps.extract.images import Images
from deps.extract.parallel import map_in_threads
from deps.extract.precision import PRECISIONS, SCHEMES, as_shipped
from deps.extract.repair import Quantized, plain, repair
from deps.extract.verify import Agreement, Batches, Candidate, Judgement, judge, top1_of
from deps.ground.console import Story
from deps.ground.errors import ExportError
from deps.serve.manifest import Precision
from deps.supernet import ArchSpec, SearchSpace
from deps.supernet.network import Network
from deps.supernet.onnx_graph import onnx_from_subnet
from deps.supernet.plan import plan
from deps.train.data import ImageData


@dataclass(frozen=True, eq=False, slots=True)
class Export:
    """One precision of the subnet, with what was found when it was run."""

    precision: Precision
    content: bytes
    """The ONNX file; empty when it could not be made."""

    validation: Agreement | None
    """On the images that decide."""

    test: Agreement | None
    """On the images that only report."""

    drop: float | None
    """Accuracy lost on validation images against the torch subnet, as a fraction."""

    why_left_out: str | None
    """None when it is shipped."""

    how: str = ""
    """What had to be done for it to keep its accuracy; empty when nothing had."""

    @property
    def is_shipped(self) -> bool:
        """Whether it enters the bundle."""
        return self.why_left_out is None


@dataclass(frozen=True, eq=False, slots=True)
class Exports:
    """All precisions of one subnet, and the torch accuracies they are held against."""

    entries: tuple[Export, ...]
    torch_validation: float
    """On the first validation images, as many as were compared."""

    torch_test: float

    is_measured: bool = True
    """Whether accuracies mean anything; without images graphs were only compared with torch."""

    @property
    def shipped(self) -> tuple[Export, ...]:
        """Those that enter the bundle."""
        return tuple(entry for entry in self.entries if entry.is_shipped)

    def notes(self) -> tuple[str, ...]:
        """Return why each precision that is missing is missing, and which was repaired."""
        missing = [f"{entry.precision} left out: {entry.why_left_out}" for entry in self.entries if entry.why_left_out]
        repaired = [f"{entry.precision}: {entry.how}" for entry in self.shipped if entry.how]
        return (*missing, *repaired)


class Subnet(NamedTuple):
    """What is exported."""

    space: SearchSpace
    arch: ArchSpec
    network: Network
    """Recalibrated, in evaluation mode."""

    metadata: Mapping[str, str]
    """Written into every file."""


def export_family(
    subnets: Sequence[Subnet],
    data: ImageData,
    story: Story,
    *,
    max_drop: float,
    seed: int,
    judged: int | None = None,
) -> list[Exports]:
    """Export several subnets in every precision and check each file; images of a resolution are decoded once.

    Args:
        subnets: what to export.
        data: calibration images, and the images that subnets are judged on.
        story: told of each subnet.
        max_drop: largest loss of validation accuracy, in points of a hundred, that is shipped.
        seed: of the draw of calibration images.
        judged: most images of a split that precisions are judged on; by their size when None.

    Returns:
        One for each subnet, in order.

    Raises:
        ExportError: an fp32 graph does not compute what its subnet computes; nothing can be shipped then.
    """
    images = {
        resolution: Images(data, resolution, seed=seed, members=len(subnets), judged=judged)
        for resolution in dict.fromkeys(subnet.arch.resolution for subnet in subnets)
    }

    def written(subnet: Subnet) -> _Exporter:
        return _Exporter(subnet, images[subnet.arch.resolution], max_drop, story)

    # While one is judged the next is written, since either leaves a core idle now and then.
    exporters = map_in_threads(written, subnets, workers=1)
    return [each.judged() for each in story.track(exporters, "exporting", total=len(subnets), unit="subnet")]


class _Made(NamedTuple):
    """A file before it was judged."""

    candidate: Candidate
    quantized: Quantized | None


class _Exporter:
    """One subnet in four files, written and opened, and on its way to be judged."""

    def __init__(self, subnet: Subnet, images: Images, max_drop: float, story: Story) -> None:
        """Write the files; those that could not be made keep the reason.

        Raises:
            ExportError: the fp32 graph could not be made, or onnxruntime cannot load one of the graphs.
        """
        self._subnet, self._images, self._max_drop, self._story = subnet, images, max_drop, story
        state = {name: tensor.numpy() for name, tensor in subnet.network.state_dict().items()}
        self._original = onnx_from_subnet(plan(subnet.space, subnet.arch), state, eps=subnet.space.norm_eps)
        self._calibration: Calibration | None = None
        self._made: dict[Precision, _Made] = {}
        self._failed: dict[Precision, str] = {}
        for precision in PRECISIONS:
            try:
                self._made[precision] = self._make(precision)
            except ExportError as error:
                if precision == "fp32":
                    raise
                self._failed[precision] = str(error)
        for entry in self._made.values():
            entry.candidate.open()

    def judged(self) -> Exports:
        """Run the files, repair what loses too much, and return them with what was found.

        Raises:
            ExportError: the fp32 graph does not compute what the subnet computes.
        """
        made = self._made
        judged = self._judge(made, self._images.validation)
        reference = judged.agreements["fp32"].top1
        for precision, entry in list(made.items()):
            drop = 100 * (reference - judged.agreements[precision].top1)
            if entry.quantized is None or drop <= self._max_drop + 1e-9:
                continue
            repaired = self._repair(precision, entry.quantized._replace(drop=drop, tries=1), reference)
            made[precision] = self._finished(precision, repaired)
            again = self._judge({precision: made[precision]}, self._images.validation)
            judged.agreements.update(again.agreements)
        test = self._judge(made, self._images.test)
        entries = []
        for precision in PRECISIONS:
            if precision in self._failed:
                entries.append(Export(precision, b"", None, None, None, self._failed[precision]))
                continue
            agreement = judged.agreements[precision]
            entries.append(self._export(precision, made[precision], agreement, test.agreements[precision], reference))
        if not entries[0].is_shipped:
            raise ExportError(
                f"the fp32 graph does not compute what the subnet computes: {entries[0].why_left_out}; "
                "this is a fault of deps: please report it with the architecture"
            )
        return Exports(tuple(entries), judged.torch_top1, test.torch_top1)

    def _make(self, precision: Precision) -> _Made:
        if precision in SCHEMES:
            if self._calibration is None:
                self._calibration = observe(self._original, self._images.calibration)
            return self._finished(precision, plain(self._original, self._calibration, SCHEMES[precision]))
        return _Made(Candidate(self._signed(self._original, precision), precision), None)

    def _finished(self, precision: Precision, quantized: Quantized) -> _Made:
        """Return the file of an int8 graph."""
        return _Made(Candidate(self._signed(quantized.model, precision), precision), quantized)

    def _signed(self, graph: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
        """Return what is shipped of a graph, with its origin in it."""
        model = as_shipped(graph, precision)
        helper.set_model_props(model, {**self._subnet.metadata, "deps.precision": precision})
        return model

    def _judge(self, made: Mapping[Precision, _Made], batches: Batches) -> Judgement:
        return judge(
            [entry.candidate for entry in made.values()], self._subnet.network, batches, compared=self._images.compared
        )

    def _repair(self, precision: Precision, first: Quantized, reference: float) -> Quantized:
        assert self._calibration is not None
        assert first.drop is not None
        self._story.detail(f"{precision} loses {first.drop:.2f} points; trying other ranges and fewer layers")
        some = np.concatenate(self._images.calibration)[: self._images.ranking]
        return repair(
            self._original,
            self._calibration,
            SCHEMES[precision],
            some,
            first=first,
            drop_of=lambda model: 100 * (reference - top1_of(model, precision, self._images.validation)),
            max_drop=self._max_drop + 1e-9,
        )

    def _export(
        self, precision: Precision, made: _Made, agreement: Agreement, test: Agreement, reference: float
    ) -> Export:
        drop, how = reference - agreement.top1, made.quantized.describe() if made.quantized else ""
        reason = None
        if not agreement.is_within_tolerance:
            reason = f"a logit is off by {agreement.max_abs_error:.3g}; the tolerance is {agreement.tolerance or 0:.3g}"
        elif 100 * drop > self._max_drop + 1e-9:
            tried = f" after {made.quantized.tries} tries to repair it" if made.quantized and how else ""
            reason = f"loses {100 * drop:.2f} points on validation images{tried}; --max-drop is {self._max_drop:g}"
        # The bytes are ordered, so that the same subnet gives the same file.
        content = made.candidate.model.SerializeToString(deterministic=True)
        return Export(precision, content, agreement, test, drop, reason, how)
