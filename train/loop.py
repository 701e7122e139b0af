"""The training loop: epochs, steps, checkpoints, and the table at the end; the same for every method.

Relies on a method saying what happens in a step, and on ``train_step`` doing it.
"""

from __future__ import annotations

import math
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deps.ground.console import Story
from deps.ground.errors import DataError, RunError
from deps.ground.files import write_json
from deps.ground.units import format_seconds
from deps.supernet.arch import ArchSpec
from deps.supernet.evaluation import recalibrated_subnet, top1
from deps.supernet.supernet import Supernet
from deps.train.checkpoint import Progress, State, load_newest, restore, save_checkpoint
from deps.train.data import ImageData
from deps.train.datasets import load_recipe_data
from deps.train.methods import method_of
from deps.train.metrics import MetricsLog
from deps.train.recipe import Recipe
from deps.train.results import BATCH, TrainReport, measure
from deps.train.run import RESULTS, SCHEMA_VERSION, cpu_threads, locked, prepare, read_results
from deps.train.start import describe, initial_supernet
from deps.train.step import momentum_of, sgd, train_step, trainable

WATCH_IMAGES = 300
"""Images that BatchNorm is recalibrated from for the accuracy of an epoch's line; the table at the end takes more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One call of ``deps-train``."""

    recipe: Recipe
    out: Path
    """The run folder."""

    resume: bool = False
    """Whether a run that is there already is continued, or shown when it is finished."""

    overwrite: bool = False
    """Whether a run that is there already is removed first."""

    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""

    download: bool = False
    """Whether missing files of the data set may be fetched."""

    workers: int | None = None
    """Processes that decode pictures; None chooses. Their number changes nothing but the time."""


def train(config: TrainConfig, story: Story) -> TrainReport:
    """Train a supernet into a run folder, or continue where a former call stopped.

    Raises:
        RunError: the folder holds another run, or is in use.
        DataError: the images cannot be used.
        FileError: the disk is full, or the place cannot be written.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the state was saved.
    """
    space = config.recipe.search_space()
    with locked(config.out):
        prepare(config.out, config.recipe, resume=config.resume, overwrite=config.overwrite)
        finished = read_results(config.out)
        if finished is not None:
            story.say(f"{config.out} is finished already; this is its table")
            return TrainReport.from_dict(space, finished, folder=str(config.out))
        device = resolve_device(config.device)
        recipe = config.recipe
        data = load_recipe_data(
            recipe, folder=config.out, story=story, download=config.download, workers=config.workers
        ).to(device)
        devices = [device] if device.type == "cuda" else []
        with cpu_threads(config.recipe.threads), torch.random.fork_rng(devices=devices):
            return _Training(config, data, device, story).run()


def resolve_device(name: str) -> torch.device:
    """Return the device that ``--device`` names.

    Raises:
        RunError: it is unknown, or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise RunError(f"unknown device {name!r}; known: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError("no CUDA device was found here; use --device cpu")
    return torch.device(name)


class _Training:
    """One sitting of a training: the live tensors, and where they stand."""

    def __init__(self, config: TrainConfig, data: ImageData, device: torch.device, story: Story) -> None:
        recipe = config.recipe
        self.recipe, self.folder, self.data, self.story, self.device = recipe, config.out, data, story, device
        self.steps_per_epoch = data.steps_per_epoch(recipe.batch_size)
        self.supernet = initial_supernet(recipe, data, story).to(device)
        self.parameters = trainable(self.supernet)
        self.optimizer = sgd(self.parameters, recipe)
        self.steps = recipe.epochs * self.steps_per_epoch
        self.method = method_of(self.supernet.space, recipe, self.steps_per_epoch)
        self.teacher: Supernet | None = None
        self.step = 0
        self.sums: defaultdict[str, float] = defaultdict(float)
        self.seconds_before = 0.0
        self.metrics_bytes = 0
        self.started = time.monotonic()
        self._resume()

    def _resume(self) -> None:
        found = load_newest(self.folder, self.story)
        if found is None:
            return
        state, progress = found
        restore(self.supernet.tensors, state.weights)
        restore(momentum_of(self.optimizer, self.parameters), state.momentum)
        if state.teacher:
            self.teacher = Supernet(self.supernet.space, state.teacher).to(self.device)
        self.step, self.seconds_before, self.metrics_bytes = progress.step, progress.seconds, progress.metrics_bytes
        self.sums.update(progress.sums)
        self.story.say(f"resuming {self.folder} at step {self.step} of {self.steps}")

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def run(self) -> TrainReport:
        stream = self.data.training_stream(
            range(self.step, self.steps),
            self.recipe.batch_size,
            seed=self.recipe.seed,
            resolution=lambda step: self.method.plan(step).shares[0].arch.resolution,
        )
        bar = self.story.bar("training", total=self.steps, initial=self.step, unit="step")
        metrics = MetricsLog(self.folder, length=self.metrics_bytes, step=self.step)
        # Closing the stream ends the processes that decode ahead.
        with bar, metrics as log, _stop_requests() as stop, closing(stream) as batches:
            while self.step < self.steps:
                try:
                    x_NCHW, labels_N = next(batches)
                except DataError:
                    # A picture changed meanwhile: what was learned so far is kept, and goes on when it is mended.
                    self._save(log)
                    self.story.say(f"stopped at step {self.step} of {self.steps}; continue with --resume")
                    raise
                self._train_one_step(bar, x_NCHW, labels_N)
                if self.step % self.steps_per_epoch == 0:
                    self._end_epoch(log)
                elif stop:
                    self._save(log)
                if stop:
                    self.story.say(f"stopped at step {self.step} of {self.steps}; continue with --resume")
                    raise KeyboardInterrupt
        return self._finish()

    def _train_one_step(self, bar: Any, x_NCHW: Tensor, labels_N: Tensor) -> None:
        plan = self.method.plan(self.step)
        # Dropout draws from torch's global state; from a seed of its own each step, it needs no saving.
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)
        if plan.takes_teacher:
            tensors = {name: tensor.detach().clone() for name, tensor in self.supernet.tensors.items()}
            self.teacher = Supernet(self.supernet.space, tensors)
        result = train_step(
            self.supernet, self.parameters, self.optimizer, plan, self.recipe, x_NCHW, labels_N, self.teacher
        )
        for role, loss in result.losses.items():
            self.sums[f"loss/{role}"] += float(loss)
        self.sums["right"] += float(result.right)
        self.step += 1
        bar.update()
        first_loss = float(result.losses[plan.shares[0].role])
        bar.set_postfix(ε=f"{plan.epsilon:.2g}", loss=f"{first_loss:.3f}", refresh=False)
        if not math.isfinite(first_loss):
            raise RunError(
                f"the loss is no longer a number at step {self.step}; lower --lr, or bound the gradient with "
                "--clip-gradient; the last good state is in the newest checkpoint"
            )

    def _end_epoch(self, log: MetricsLog) -> None:
        plan, epoch = self.method.plan(self.step - 1), self.step // self.steps_per_epoch
        record: dict[str, Any] = {"epoch": epoch, "step": self.step, "lr": plan.lr, "epsilon": plan.epsilon}
        record |= {name: total / self.steps_per_epoch for name, total in self.sums.items() if name.startswith("loss/")}
        images = self.steps_per_epoch * self.recipe.batch_size
        record[f"train_top1/{plan.shares[0].role}"] = self.sums["right"] / images
        for role, arch in self._watched(epoch):
            record[f"validation_top1/{role}"] = self._validate(arch)
        record["seconds"] = round(self.seconds, 2)
        log.append(self.step, record)
        self.sums.clear()
        self._save(log)
        if not self.story.is_terminal or epoch == self.recipe.epochs:
            self.story.say(self._line(record))

    def _watched(self, epoch: int) -> list[tuple[str, ArchSpec]]:
        space = self.supernet.space
        watched = [("largest", ArchSpec.largest(space))]
        if epoch * self.steps_per_epoch > self.method.shrink_start:
            watched.append(("smallest", ArchSpec.smallest(space)))
        return watched

    def _validate(self, arch: ArchSpec) -> float:
        images = min(self.recipe.calibration_images, WATCH_IMAGES)
        calibration = self.data.calibration(arch.resolution, images=images)
        module = recalibrated_subnet(self.supernet, arch, calibration)
        return top1(module, self.data.validation.batches(BATCH, resolution=arch.resolution))

    def _line(self, record: dict[str, Any]) -> str:
        parts = [
            f"epoch {record['epoch']:3d}/{self.recipe.epochs}",
            f"lr {record['lr']:.4f}",
            f"ε {record['epsilon']:.3g}",
        ]
        parts += [
            f"{name.removeprefix('loss/')} loss {v:.3f}" for name, v in record.items() if name.startswith("loss/")
        ]
        for name, v in record.items():
            if name.startswith("validation_top1/"):
                parts.append(f"{name.removeprefix('validation_top1/')} top-1 {100 * v:.1f} %")
        left = self.seconds / self.step * (self.steps - self.step)
        return "  ".join([*parts, f"{format_seconds(left)} left"])

    def _save(self, log: MetricsLog) -> None:
        progress = Progress(step=self.step, seconds=self.seconds, metrics_bytes=log.length, sums=dict(self.sums))
        state = State(
            weights=self.supernet.tensors,
            momentum=momentum_of(self.optimizer, self.parameters),
            teacher=self.teacher.tensors if self.teacher is not None else {},
        )
        save_checkpoint(self.folder, state, progress)

    def _finish(self) -> TrainReport:
        for tensor in self.parameters.values():
            tensor.requires_grad_(False)
        self.supernet.provenance |= {"recipe": self.recipe.to_dict(), "steps": self.step, "images": describe(self.data)}
        report = TrainReport(
            folder=str(self.folder),
            recipe=self.recipe.name,
            method=self.recipe.method,
            epochs=self.recipe.epochs,
            steps=self.steps,
            seconds=round(self.seconds, 1),
            images={s.name: len(s) for s in (self.data.train, self.data.validation, self.data.test)},
            subnets=measure(self.supernet, self.data, self.recipe, self.story),
        )
        self.supernet.save(self.folder)
        write_json(self.folder / RESULTS, {"schema_version": SCHEMA_VERSION, **report.to_dict()})
        return report


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying in the middle of a step; a second one ends the process as usual."""
    received: list[int] = []
    previous: dict[signal.Signals, Any] = {}

    def request(number: int, _frame: Any) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, request)
    except ValueError:
        pass  # Not in the main thread, which alone receives signals.
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
