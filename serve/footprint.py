"""What one engine of a bundle needs in memory, measured in a process of its own.

``python -m deps.serve.footprint BUNDLE SUBNET PRECISION BACKEND BATCH THREADS TARGET`` loads the engine, runs it three
times and prints the footprint as JSON; THREADS may be 0 for the default, TARGET is JSON. Relies on
``deps.ground.footprint``, and on no torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from deps.ground.errors import TargetError
from deps.ground.footprint import Footprint, measure, measure_fresh
from deps.serve.bundle import Bundle, read_bundle
from deps.serve.choose import load_engine
from deps.serve.manifest import Backend, SubnetEntry
from deps.serve.records import plain_from_record, record_from_plain
from deps.serve.targets import Target

RUNS = 3


def engine_footprint(
    bundle: Bundle,
    target: Target,
    subnet: SubnetEntry,
    *,
    precision: str,
    backend: Backend,
    batch: int,
    num_threads: int | None,
) -> Footprint:
    """Return what an engine adds to the memory of a fresh process: model, engine and a few runs of ``batch`` images.

    Raises:
        DepsError: the engine cannot be loaded or run there.
    """
    described = json.dumps(plain_from_record(target))
    arguments = [str(bundle.folder), subnet.name, precision, backend, str(batch), str(num_threads or 0), described]
    return measure_fresh("deps.serve.footprint", arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one engine and print its footprint."""
    folder, name, precision, backend, batch, threads, described = argv if argv is not None else sys.argv[1:]
    bundle = read_bundle(folder)
    target = record_from_plain(Target, json.loads(described), error=TargetError, remedy="give a target as JSON")
    shape = (int(batch), *bundle.manifest.input.shape)
    images_NCHW = np.zeros(shape, np.float32)
    _load_libraries(cast(Backend, backend))

    def work() -> Any:
        engine = load_engine(
            bundle,
            target,
            bundle.manifest.subnet(name),
            backend=cast(Backend, backend),
            precision=precision,
            max_batch=int(batch),
            num_threads=int(threads) or None,
        ).engine
        for _ in range(RUNS):
            engine.infer(images_NCHW)
        return engine

    print(json.dumps(measure(work, gpu=backend != "onnxruntime").to_dict()))  # noqa: T201 a program's one answer
    return 0


def _load_libraries(backend: Backend) -> None:
    """Import the runtime beforehand: it is the same for every subnet, and no part of one."""
    if backend == "onnxruntime":
        import onnxruntime

        onnxruntime.get_available_providers()


if __name__ == "__main__":
    sys.exit(main())
