"""The engines of a bundle's subnets, loaded side by side, and how their first times are learnt.

Relies on ``choose.py`` for what runs each subnet. Times come from the bundle where it holds some, scaled by what one
image takes here; otherwise from a few batches at the start. ``estimates.py`` corrects both while serving.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deps.serve.bundle import Bundle
from deps.serve.choose import BackendOption, Choice, load_engine
from deps.serve.computed import AnsweredBy
from deps.serve.engines.base import Engine
from deps.serve.estimates import filled_curve, padded_curve
from deps.serve.manifest import ModelFile
from deps.serve.targets import get_target

START_BUDGET_S = 0.15
"""Time at the start for measuring batches of a whole family, beyond the first images of each subnet."""

# Batches of so many images are tried whatever they take: without, a slow machine would never join any. The largest one
# that is tried is chosen so that it runs once to take its memory, and twice with all smaller ones to be timed.
_LEAST_TRIED = 4
_PASSES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """What a user may decide about what runs a bundle."""

    subnet: str | None = None
    """Name of the one subnet that shall answer; None takes all."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One loaded subnet of a family."""

    choice: Choice
    """What runs it, and why."""

    engine: Engine
    """The loaded engine."""

    target: str
    """Name of the target it was chosen for."""

    by: AnsweredBy
    """What its answers say of who computed them."""

    @property
    def name(self) -> str:
        """The subnet's name."""
        return self.choice.subnet.name

    @property
    def model(self) -> ModelFile:
        """The ONNX file that is run, or that the engine was built from."""
        file = self.choice.file
        if isinstance(file, ModelFile):
            return file
        found = self.choice.subnet.model(file.precision)
        assert found is not None, file.path
        return found

    @property
    def accuracy(self) -> float | None:
        """Fraction of images classified rightly: on validation images, else on test ones; None when not measured."""
        model = self.model
        return model.top1 if model.top1_validation is None else model.top1_validation

    def told_ms(self) -> Mapping[int, float]:
        """Return the bundle's milliseconds by batch size for what runs here; empty when it holds none."""
        where = "cpu" if self.choice.backend == "onnxruntime" else self.target
        by_batch = self.model.batch_ms.get(where, {})
        return {int(images): milliseconds for images, milliseconds in by_batch.items() if milliseconds > 0}


def open_family(bundle: Bundle, options: EngineOptions) -> tuple[Member, ...]:
    """Choose and load an engine for every subnet, or for the one that is asked for.

    Returns:
        In the order of the manifest.

    Raises:
        BundleError: no such subnet, or an altered file.
        TargetError: the target is unknown here.
        EngineError: nothing here can run one of them.
    """
    manifest = bundle.manifest
    target = get_target(options.target or manifest.target, options.targets_file)
    subnets = manifest.subnets if options.subnet is None else (manifest.subnet(options.subnet),)
    with contextlib.ExitStack() as opened:
        members = []
        for subnet in subnets:
            choice, engine = load_engine(
                bundle,
                target,
                subnet,
                backend=options.backend,
                precision=options.precision,
                max_batch=options.max_batch,
                num_threads=options.num_threads,
            )
            opened.callback(engine.close)
            by = AnsweredBy(subnet=engine.subnet, precision=engine.precision, engine=engine.name)
            members.append(Member(choice=choice, engine=engine, target=target.name, by=by))
        opened.pop_all()  # all are loaded: from here on they belong to the caller
    return tuple(members)


def accuracy_order(members: tuple[Member, ...]) -> list[float]:
    """Return numbers that grow with the members' accuracy; multiply-adds stand in when one was not measured."""
    accuracies = [member.accuracy for member in members]
    if any(accuracy is None for accuracy in accuracies):
        return [float(member.choice.subnet.flops) for member in members]
    return [accuracy for accuracy in accuracies if accuracy is not None]


def first_curve(member: Member, timed: Callable[[int], float], budget_s: float) -> list[float]:
    """Learn what batches of a member take, in at most about a given time beyond one image's.

    Args:
        member: the engine; it is run through ``timed`` only.
        timed: runs a batch of so many blank images where it will run later, and returns its seconds.
        budget_s: no further round is begun once half of it is spent.

    Returns:
        Seconds for 0, 1, 2, … images up to the largest batch.
    """
    engine = member.engine
    for images in engine.warm_up_batches:
        timed(images)
    if len(engine.warm_up_batches) > 1:  # it pads every batch to one of these
        return padded_curve({images: min(timed(images), timed(images)) for images in engine.warm_up_batches})
    one_s = min(timed(1), timed(1))
    told = member.told_ms()
    if 1 in told:
        # The shape of the curve belongs to the model, its height to this machine.
        return filled_curve({images: one_s / told[1] * ms for images, ms in told.items()}, engine.max_batch)
    largest = 1
    while 2 * largest <= min(engine.max_batch, max(_LEAST_TRIED, budget_s / (_PASSES * one_s))):
        largest *= 2
    timed(largest)  # it takes memory that the system has to find first, and is slower than it will ever be again
    sizes = [1 << power for power in range(largest.bit_length())]
    measured = dict.fromkeys(sizes, math.inf)
    spent_s = 0.0
    while not spent_s or spent_s * 2 <= budget_s:
        for images in sizes:
            seconds = timed(images)
            measured[images] = min(measured[images], seconds)
            spent_s += seconds
    return filled_curve(measured, engine.max_batch)


def give_back_memory(members: tuple[Member, ...]) -> None:
    """Give back what loading and measuring took and serving may never need: 53 of 166 MB for MobileNetV3 at 224 pixels.

    Nobody may be using the engines.
    """
    for member in members:
        member.engine.trim()
    with contextlib.suppress(OSError, AttributeError):  # only glibc keeps freed memory back, and can be asked for it
        ctypes.CDLL(None).malloc_trim(0)
