"""Export subnets where there are no images: fp32 and fp16, compared with torch on noise, of unknown accuracy.

Relies on two implementations of one network agreeing on any input; what needs images, int8 and every accuracy, is left
out and said to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import onnx
from onnx import helper

from deps.extract.export import Export, Exports, Subnet
from deps.extract.precision import half
from deps.extract.verify import Agreement, Candidate, judge
from deps.ground.console import Story
from deps.ground.errors import ExportError
from deps.serve.manifest import Precision
from deps.supernet.onnx_graph import onnx_from_subnet
from deps.supernet.plan import plan
from deps.train.data import ImageData

NEEDS_IMAGES: tuple[Precision, ...] = ("trt-int8", "cpu-int8")


class _Made(NamedTuple):
    precision: Precision
    model: onnx.ModelProto


def export_unmeasured(subnets: Sequence[Subnet], noise: ImageData, story: Story) -> list[Exports]:
    """Export several subnets in fp32 and fp16.

    Args:
        subnets: what to export.
        noise: what they are compared on.
        story: told of each subnet.

    Raises:
        ExportError: an fp32 graph does not compute what its subnet computes.
    """
    return [_exported(each, noise) for each in story.track(subnets, "exporting", total=len(subnets), unit="subnet")]


def _exported(subnet: Subnet, noise: ImageData) -> Exports:
    state = {name: tensor.numpy() for name, tensor in subnet.network.state_dict().items()}
    original = onnx_from_subnet(plan(subnet.space, subnet.arch), state, eps=subnet.space.norm_eps)
    made = [_Made("fp16", half(original)), _Made("fp32", original)]
    for each in made:
        helper.set_model_props(each.model, {**subnet.metadata, "deps.precision": each.precision})
    batches = noise.test.batches(4, resolution=subnet.arch.resolution)
    judged = judge([Candidate(each.model, each.precision) for each in made], subnet.network, batches).agreements
    entries = [_entry(each, judged[each.precision]) for each in reversed(made)]
    if not entries[0].is_shipped:
        raise ExportError(
            f"the fp32 graph does not compute what the subnet computes: {entries[0].why_left_out}; "
            "this is a fault of deps: please report it with the architecture"
        )
    why = "it is calibrated with training images, and there are none; give them with --data FOLDER"
    entries += [Export(precision, b"", None, None, None, why) for precision in NEEDS_IMAGES]
    return Exports(tuple(entries), 0.0, 0.0, is_measured=False)


def _entry(made: _Made, agreement: Agreement) -> Export:
    reason = None
    if not agreement.is_within_tolerance:
        reason = f"a logit is off by {agreement.max_abs_error:.3g}; the tolerance is {agreement.tolerance or 0:.3g}"
    content = made.model.SerializeToString(deterministic=True)
    return Export(made.precision, content, agreement, agreement, None, reason)
