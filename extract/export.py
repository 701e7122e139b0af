"""Export one subnet in every precision, run each against the torch subnet, and decide which are good enough to ship.

Relies on ``precision.py`` for the graphs and ``verify.py`` for the judgement; what is left out keeps its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx
from onnx import helper

from deps.extract.evaluate import BATCH_SIZE
from deps.extract.precision import PRECISIONS, convert
from deps.extract.verify import Agreement, Batches, compare
from deps.ground.console import Story
from deps.ground.errors import ExportError
from deps.serve.manifest import Precision
from deps.supernet import ArchSpec, SearchSpace
from deps.supernet.evaluation import top1
from deps.supernet.network import Network
from deps.supernet.onnx_graph import onnx_from_subnet
from deps.supernet.plan import plan
from deps.train.data import ImageData

CALIBRATION_IMAGES = 500
"""Training images from which int8 takes the ranges of activations."""

IMAGE_LIMIT = 5000
"""Images of a split that every precision is run on; graphs meant for a GPU are slow on a processor."""


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

    @property
    def is_shipped(self) -> bool:
        """Whether it enters the bundle."""
        return self.why_left_out is None


@dataclass(frozen=True, eq=False, slots=True)
class Exports:
    """All precisions of one subnet, and the torch accuracies they are held against."""

    entries: tuple[Export, ...]
    torch_validation: float
    torch_test: float

    @property
    def shipped(self) -> tuple[Export, ...]:
        """Those that enter the bundle."""
        return tuple(entry for entry in self.entries if entry.is_shipped)

    def notes(self) -> tuple[str, ...]:
        """Return why each precision that is missing is missing."""
        return tuple(
            f"{entry.precision} left out: {entry.why_left_out}" for entry in self.entries if entry.why_left_out
        )


def export_subnet(
    space: SearchSpace,
    arch: ArchSpec,
    subnet: Network,
    data: ImageData,
    story: Story,
    *,
    metadata: Mapping[str, str],
    max_drop: float,
    seed: int,
) -> Exports:
    """Export a recalibrated subnet in every precision and check each.

    Args:
        space: its search space.
        arch: which subnet it is.
        subnet: the subnet, in evaluation mode.
        data: calibration images, and the images it is judged on.
        story: told of each precision.
        metadata: written into every file.
        max_drop: largest loss of validation accuracy, in points of a hundred, that is shipped.
        seed: of the draw of calibration images.

    Raises:
        ExportError: the fp32 graph does not compute what the subnet computes; nothing can be shipped then.
    """

    def validation() -> Batches:
        return data.validation.batches(BATCH_SIZE, resolution=arch.resolution, limit=IMAGE_LIMIT)

    def test() -> Batches:
        return data.test.batches(BATCH_SIZE, resolution=arch.resolution, limit=IMAGE_LIMIT)

    state = {name: tensor.numpy() for name, tensor in subnet.state_dict().items()}
    original = onnx_from_subnet(plan(space, arch), state, eps=space.norm_eps)
    images = data.calibration(arch.resolution, images=CALIBRATION_IMAGES, seed=seed)
    calibration = [batch.numpy() for batch in images]
    reference = top1(subnet, validation())

    entries = []
    for precision in story.track(PRECISIONS, "exporting", total=len(PRECISIONS), unit="file"):
        try:
            model = convert(original, precision, calibration)
            helper.set_model_props(model, {**metadata, "deps.precision": precision})
            entries.append(_judge(model, precision, subnet, reference, validation, test, max_drop))
        except ExportError as error:
            if precision == "fp32":
                raise
            entries.append(Export(precision, b"", None, None, None, str(error)))
    first = entries[0]
    if not first.is_shipped:
        raise ExportError(
            f"the fp32 graph does not compute what the subnet computes: {first.why_left_out}; "
            "this is a fault of deps: please report it with the architecture"
        )
    return Exports(tuple(entries), reference, top1(subnet, test()))


def _judge(
    model: onnx.ModelProto,
    precision: Precision,
    subnet: Network,
    reference: float,
    validation: Callable[[], Batches],
    test: Callable[[], Batches],
    max_drop: float,
) -> Export:
    agreement = compare(model, precision, subnet, validation())
    drop, reason = reference - agreement.top1, None
    if not agreement.is_within_tolerance:
        reason = f"a logit is off by {agreement.max_abs_error:.3g}; the tolerance is {agreement.tolerance or 0:.3g}"
    elif 100 * drop > max_drop + 1e-9:
        reason = f"loses {100 * drop:.2f} points on validation images; --max-drop is {max_drop:g}"
    # The bytes are ordered, so that the same subnet gives the same file.
    content = model.SerializeToString(deterministic=True)
    return Export(precision, content, agreement, compare(model, precision, subnet, test()), drop, reason)
