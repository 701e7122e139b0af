"""A bundle being served: its manifest, the engine that was chosen for it, and the thread that runs the engine.

Relies on ``choose.py`` and ``runner.py``; knows images and logits, and nothing of protocols.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deps.serve.bundle import Bundle, read_bundle
from deps.serve.choose import BackendOption, Choice, load_engine
from deps.serve.computed import AnsweredBy, Computed
from deps.serve.engines.base import Engine, FloatArray
from deps.serve.runner import DEFAULT_QUEUE_IMAGES, Runner
from deps.serve.targets import get_target


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """What a user may decide about how a bundle is run."""

    subnet: str | None = None
    """Name of the subnet; None takes the bundle's first."""

    target: str | None = None
    """Name of the target whose preferences count; None takes the bundle's own."""

    targets_file: Path | None = None
    """TOML file of the user's own targets."""

    backend: BackendOption = "auto"
    """What shall run it."""

    precision: str | None = None
    """Insists on one precision."""

    num_threads: int | None = None
    """Threads of ONNX Runtime; None leaves one core for the server."""

    max_batch: int | None = None
    """Most images at once, as far as an engine's profile allows; None takes the target's."""

    max_queue_images: int = DEFAULT_QUEUE_IMAGES
    """Most images that may wait."""


class Service:
    """One served model."""

    def __init__(self, bundle: Bundle, choice: Choice, engine: Engine, *, max_queue_images: int) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.choice = choice
        self.by = AnsweredBy(subnet=engine.subnet, precision=engine.precision, engine=engine.name)
        self._is_draining = False
        self._runner = Runner(engine, max_queue_images=max_queue_images)

    @classmethod
    def open(cls, path: Path | str, options: ServeOptions | None = None) -> Service:
        """Open a bundle, choose an engine, load it, and run blank images so that the first request is fast.

        Raises:
            BundleError: the bundle is incomplete, altered or unsafe.
            TargetError: the target is unknown here.
            EngineError: nothing here can run it.
        """
        options = options or ServeOptions()
        bundle = read_bundle(path)
        choice, engine = open_engine_of(bundle, options)
        service = cls(bundle, choice, engine, max_queue_images=options.max_queue_images)
        try:
            service._warm_up(engine.warm_up_batches)
        except BaseException:
            service.close()
            raise
        return service

    def _warm_up(self, sizes: tuple[int, ...]) -> None:
        for size in sizes:
            blank_NCHW = np.zeros((size, *self.manifest.input.shape), dtype=np.float32)
            self._runner.submit(blank_NCHW).result()  # on the engine's own thread, which owns what is made there

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return self._runner.is_accepting and not self._is_draining

    def begin_drain(self) -> None:
        """Say that no more requests should come; those that come all the same are still answered."""
        self._is_draining = True

    def close(self) -> None:
        """Answer what waits, then give the engine back."""
        self.begin_drain()
        self._runner.close()

    async def infer(self, images_NCHW: FloatArray, *, timeout_s: float = math.inf) -> Computed:
        """Compute the logits of one request.

        Args:
            images_NCHW: at least one image, as the models take them.
            timeout_s: seconds from now after which the answer is of no use.

        Raises:
            RefusedError: too large, late, or too much waits already.
            EngineError: the engine failed.
        """
        submitted = time.monotonic()
        logits_NV = await asyncio.wrap_future(self._runner.submit(images_NCHW, timeout_s=timeout_s))
        return Computed(logits_NV, self.by, queue_s=0.0, compute_s=time.monotonic() - submitted)


def open_engine_of(bundle: Bundle, options: ServeOptions) -> tuple[Choice, Engine]:
    """Choose and load an engine as the options want it.

    Raises:
        BundleError: no such subnet, or an altered file.
        TargetError: the target is unknown here.
        EngineError: nothing here can run it.
    """
    manifest = bundle.manifest
    target = get_target(options.target or manifest.target, options.targets_file)
    subnet = manifest.default_subnet if options.subnet is None else manifest.subnet(options.subnet)
    return load_engine(
        bundle,
        target,
        subnet,
        backend=options.backend,
        precision=options.precision,
        max_batch=options.max_batch,
        num_threads=options.num_threads,
    )
