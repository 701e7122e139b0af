"""Write a Triton model repository from a bundle: for servers of whole machines, where the bundle's own runner is small.

Relies on the bundle's hashes having been checked. Each subnet becomes a model, and a family several, of which a client
names one. An engine of TensorRT for RTX is passed over, since Triton has no runtime for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from deps.ground.console import text_table
from deps.ground.errors import BundleError
from deps.ground.files import whole_folder
from deps.serve.bundle import Bundle
from deps.serve.engines.compose import with_raw_input
from deps.serve.engines.tensorrt import lane_sizes
from deps.serve.manifest import BatchProfile, EngineFile, InputSpec, ModelFile, OutputSpec, SubnetEntry
from deps.serve.targets import Target

MAX_QUEUE_DELAY_MICROSECONDS = 1000
"""How long a request waits for others to share a batch with."""

LABELS = "labels.txt"


class TritonModel(NamedTuple):
    """One model of the repository."""

    name: str
    file: ModelFile | EngineFile
    backend: Literal["onnxruntime", "tensorrt"]
    max_batch: int

    @property
    def file_name(self) -> str:
        """What Triton's backend looks for."""
        return "model.plan" if self.backend == "tensorrt" else "model.onnx"


@dataclass(frozen=True, slots=True)
class TritonReport:
    """What was written."""

    folder: Path
    models: tuple[TritonModel, ...]
    notes: tuple[str, ...]

    def to_text(self) -> str:
        """Return a table for a person."""
        rows = [(m.name, m.backend, m.file.precision, f"1 to {m.max_batch}") for m in self.models]
        table = text_table(("model", "backend", "precision", "batch"), rows)
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([table, *notes, f"serve it with: tritonserver --model-repository {self.folder}"])

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        models = [
            {"name": m.name, "backend": m.backend, "precision": m.file.precision, "max_batch": m.max_batch}
            for m in self.models
        ]
        return {"folder": str(self.folder), "models": models, "notes": list(self.notes)}


def write_repository(bundle: Bundle, target: Target, out: Path, *, takes_raw: bool = False) -> TritonReport:
    """Write a repository with one model for each subnet, and one more for each of its TensorRT engines.

    Args:
        bundle: whose files were found whole.
        target: says what runs its models, and the largest batch.
        out: the repository; a new or an empty folder.
        takes_raw: whether models take raw pixels, UINT8, instead of normalised images; engines are left out then,
            unless they were built so.

    Raises:
        BundleError: something stands at ``out``, or the bundle has no file that Triton can run.
        FileError: the place cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"something stands at {out}; expected a new or an empty folder; choose another")
    manifest, notes = bundle.manifest, []
    models = [model for subnet in manifest.subnets for model in _onnx_models(subnet, target)]
    for engine in manifest.engines:
        if engine.runtime == "tensorrt_rtx":
            notes.append(f"{engine.path} is for TensorRT for RTX, which Triton does not run: it is left out")
        elif takes_raw:
            notes.append(f"{engine.path} takes normalised images: it is left out of a repository for raw pixels")
        else:
            models.append(
                TritonModel(f"{engine.subnet}-{engine.precision}-trt", engine, "tensorrt", engine.profile.max)
            )
    if not models:
        raise BundleError(f"{bundle.folder} holds no file that Triton runs; expected fp32, fp16 or cpu-int8")
    raw = None
    if takes_raw:
        if manifest.raw_input is None:
            raise BundleError(f"{bundle.folder} has no raw-pixel graph; expected one; make the bundle again")
        raw = bundle.read_bytes(manifest.raw_input)
    is_on_gpu = "tensorrt" in target.backends
    with whole_folder(out, replace=out.exists()) as folder:
        for model in models:
            place = folder / model.name
            (place / "1").mkdir(parents=True)
            content = bundle.read_bytes(model.file)
            (place / "1" / model.file_name).write_bytes(content if raw is None else with_raw_input(content, raw))
            (place / LABELS).write_text("".join(f"{label}\n" for label in manifest.labels), encoding="utf-8")
            image = manifest.raw_input.name if takes_raw and manifest.raw_input else manifest.input.name
            kind = "TYPE_UINT8" if takes_raw else "TYPE_FP32"
            text = config_text(model, image, kind, manifest.input, manifest.output, is_on_gpu=is_on_gpu)
            (place / "config.pbtxt").write_text(text, encoding="utf-8")
    return TritonReport(out, tuple(models), tuple(notes))


def _onnx_models(subnet: SubnetEntry, target: Target) -> list[TritonModel]:
    """Return the model that ONNX Runtime runs, in the best precision of the target that it runs well."""
    # A GPU's ONNX Runtime has no fast kernels for either int8 file; a processor's has none for fp16.
    wanted: Sequence[str] = ("fp16", "fp32") if "tensorrt" in target.backends else ("cpu-int8", "fp32")
    files = [file for precision in wanted if (file := subnet.model(precision)) is not None]
    return [TritonModel(subnet.name, files[0], "onnxruntime", target.max_batch)] if files else []


def config_text(
    model: TritonModel, image: str, kind: str, input_spec: InputSpec, output_spec: OutputSpec, *, is_on_gpu: bool
) -> str:
    """Return ``config.pbtxt``, a ``ModelConfig`` of Triton in protocol buffers' text format.

    Args:
        model: which file, and the largest batch.
        image: name of its input.
        kind: Triton's name of the input's type.
        input_spec: shape of one image.
        output_spec: name and number of the logits.
        is_on_gpu: where instances run.
    """
    shape = ", ".join(str(size) for size in input_spec.shape)
    preferred = lane_sizes(BatchProfile(min=1, opt=1, max=model.max_batch))[1:]
    batching = f"  preferred_batch_size: [ {', '.join(map(str, preferred))} ]\n" if preferred else ""
    return _CONFIG.format(
        name=json.dumps(model.name),
        backend=json.dumps(model.backend),
        file=json.dumps(model.file_name),
        max_batch=model.max_batch,
        image=json.dumps(image),
        kind=kind,
        shape=shape,
        output=json.dumps(output_spec.name),
        classes=output_spec.classes,
        labels=json.dumps(LABELS),
        processor="KIND_GPU" if is_on_gpu else "KIND_CPU",
        batching=batching,
        delay=MAX_QUEUE_DELAY_MICROSECONDS,
        sha256=json.dumps(model.file.sha256),
    )


_CONFIG = """\
name: {name}
backend: {backend}
default_model_filename: {file}
max_batch_size: {max_batch}
input [
  {{
    name: {image}
    data_type: {kind}
    dims: [ {shape} ]
  }}
]
output [
  {{
    name: {output}
    data_type: TYPE_FP32
    dims: [ {classes} ]
    label_filename: {labels}
  }}
]
instance_group [
  {{
    count: 1
    kind: {processor}
  }}
]
version_policy {{
  latest {{
    num_versions: 1
  }}
}}
dynamic_batching {{
{batching}  max_queue_delay_microseconds: {delay}
}}
model_warmup [
  {{
    name: "one image"
    batch_size: 1
    inputs {{
      key: {image}
      value {{
        data_type: {kind}
        dims: [ {shape} ]
        zero_data: true
      }}
    }}
  }}
]
parameters {{
  key: "deps_sha256"
  value {{
    string_value: {sha256}
  }}
}}
"""
