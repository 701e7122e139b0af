"""The training loop: epochs, steps, checkpoints, and the table at the end; the same for every method.

Relies on a method saying what happens in a step, and on ``train_step`` doing it.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deps.ground.console import Story
from deps.ground.energy import EnergyMeter
from deps.ground.errors import DataError, RunError
from deps.ground.files import whole_folder, write_json
from deps.ground.units import format_seconds
from deps.supernet.arch import ArchSpec
from deps.supernet.supernet import Supernet
from deps.train.checkpoint import KEEP, Progress, State, load_newest, restore, save_checkpoint
from deps.train.cost import Cost, CostAccount
from deps.train.data import ImageData
from deps.train.datasets import FINDINGS, load_recipe_data
from deps.train.device import autocast_dtype, memory_format, resolve_device
from deps.train.diagnose import Diagnosis, draw_gradients, observed_plan
from deps.train.distributed import Ranks, open_ranks
from deps.train.evaluate import accuracy, calibrated
from deps.train.methods import StepPlan, method_of
from deps.train.methods.base import sandwich
from deps.train.metrics import MetricsLog
from deps.train.progress import Record, TrainingBar
from deps.train.recipe import Recipe
from deps.train.results import TrainReport, measure
from deps.train.run import (
    BEST,
    RECIPE,
    RESULTS,
    SCHEMA_VERSION,
    cpu_threads,
    locked,
    prepare,
    read_results,
)
from deps.train.start import describe, finished_teacher, initial_supernet, require_even, with_group_size
from deps.train.step import Learner, train_step
from deps.train.stop import StopRequests

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

    diagnose_gradients: int = 0
    """Steps between two looks at the gradients of the subnets; 0 never looks."""

    keep_checkpoints: int = KEEP
    """Checkpoints that stay in the folder, beside the best supernet."""


def train(config: TrainConfig, story: Story) -> TrainReport | None:
    """Train a supernet into a run folder, or continue where a former call stopped.

    Under ``torchrun`` every process calls this; the first one writes and tells.

    Returns:
        The table at the end; None in all ranks but the first.

    Raises:
        RunError: the folder holds another run, or is in use; or another rank is gone.
        DataError: the images cannot be used.
        FileError: the disk is full, or the place cannot be written.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the state was saved.
    """
    if config.keep_checkpoints < 1:
        raise RunError(f"--keep-checkpoints is {config.keep_checkpoints}; a run that can be resumed keeps at least 1")
    space = config.recipe.search_space()
    device = resolve_device(config.device)
    with open_ranks(device) as ranks, locked(config.out) if ranks.is_first else contextlib.nullcontext():
        quiet = story if ranks.is_first else Story(quiet=True)
        recipe, finished = config.recipe, None
        if ranks.is_first:
            start = with_group_size(config.recipe, config.out, ranks, resumes=config.resume)
            recipe = prepare(config.out, start, resume=config.resume, overwrite=config.overwrite)
            finished = read_results(config.out)
        if ranks.from_first(int(finished is not None)):
            if not ranks.is_first:
                return None
            assert finished is not None
            story.say(f"{config.out} is finished already; this is its table")
            return TrainReport.from_dict(space, finished, folder=str(config.out))
        recipe = replace(recipe, group_size=ranks.from_first(recipe.group_size))
        require_even(recipe, ranks)
        data = _load(replace(config, recipe=recipe), ranks, quiet).to(device)
        devices = [device] if device.type == "cuda" else []
        with (
            cpu_threads(recipe.threads),
            torch.random.fork_rng(devices=devices),
            StopRequests(repeats=ranks.size > 1) as stop,
            EnergyMeter.best() if ranks.local_rank == 0 else EnergyMeter([]) as meter,
        ):
            return _Training(replace(config, recipe=recipe), data, device, quiet, ranks, stop, meter).run()


def _load(config: TrainConfig, ranks: Ranks, story: Story) -> ImageData:
    """Return the images; the first rank looks at them before the others, who find what it wrote down."""

    def load() -> ImageData:
        return load_recipe_data(
            config.recipe, folder=config.out, story=story, download=config.download, workers=config.workers
        )

    data = load() if ranks.is_first else None
    ranks.sum_numbers(1)
    return data if data is not None else load()


class _Training:
    """One sitting of a training: the live tensors, and where they stand."""

    def __init__(
        self,
        config: TrainConfig,
        data: ImageData,
        device: torch.device,
        story: Story,
        ranks: Ranks,
        stop: StopRequests,
        meter: EnergyMeter,
    ) -> None:
        recipe = config.recipe
        self.config, self.recipe, self.folder, self.data = config, recipe, config.out, data
        self.story, self.ranks, self.stop = story, ranks, stop
        self.steps_per_epoch = data.steps_per_epoch(recipe.batch_size)
        self.supernet = initial_supernet(recipe, data, story).to(device)
        self.learner = Learner.create(
            self.supernet,
            recipe,
            ranks=ranks,
            autocast=autocast_dtype(recipe.precision, device),
            memory_format=memory_format(device, recipe.layout),
        )
        self.steps = recipe.steps(self.steps_per_epoch)
        self.method = method_of(self.supernet.space, recipe, self.steps_per_epoch)
        self.teacher: Supernet | None = None
        self.step = 0
        self.record = Record(device)
        self.seconds_before = 0.0
        self.metrics_bytes = 0
        self.best: tuple[float, ...] = ()
        cost = self._resume(device)
        self.account = CostAccount(self.supernet.space, cost, meter)
        self.diagnosis: Diagnosis | None = None
        if config.diagnose_gradients > 0:
            every = config.diagnose_gradients
            self.diagnosis = Diagnosis(self.supernet, self.folder, ranks, every=every, step=self.step)
        self.started = time.monotonic()

    def _resume(self, device: torch.device) -> Cost:
        found = load_newest(self.folder, self.story)
        if found is None:
            if self.recipe.teacher:
                self.teacher = finished_teacher(self.recipe, self.supernet).to(device)
            return Cost()
        state, progress = found
        restore(self.supernet.tensors, state.weights)
        restore(self.learner.momentum, state.momentum)
        if state.teacher:
            self.teacher = Supernet(self.supernet.space, state.teacher).to(device)
        self.step, self.seconds_before, self.metrics_bytes = progress.step, progress.seconds, progress.metrics_bytes
        self.record.restore(progress.sums)
        self.best = progress.best
        self.story.say(f"resuming {self.folder} at step {self.step} of {self.steps}")
        return Cost.from_dict(progress.cost)

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def run(self) -> TrainReport | None:
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(TrainingBar(self.story, self.steps, self.step, self.recipe.batch_size))
            log: MetricsLog | None = None
            if self.ranks.is_first:
                log = stack.enter_context(
                    MetricsLog(self.folder, self.story, length=self.metrics_bytes, step=self.step)
                )
            self._train(bar, log)
        return self._finish()

    def _train(self, bar: TrainingBar, log: MetricsLog | None) -> None:
        stream = self.data.training_stream(
            range(self.step, self.steps),
            self.recipe.batch_size,
            seed=self.recipe.seed,
            resolution=lambda step: self.method.plan(step).shares[0].arch.resolution,
            shard=(self.ranks.rank, self.ranks.size),
        )
        # Closing the stream ends the processes that decode ahead.
        with contextlib.closing(stream) as batches:
            while self.step < self.steps:
                try:
                    x_NCHW, labels_N = next(batches)
                except DataError:
                    # A picture changed meanwhile: what was learned so far is kept, and goes on when it is mended.
                    self._rescue(log)
                    raise
                plan = self.method.plan(self.step)
                self._train_one_step(plan, x_NCHW, labels_N, log)
                is_last = self.step % self.steps_per_epoch == 0 or self.step == self.steps
                has_stopped = self.record.stops() if self.ranks.size > 1 else self.stop.is_requested
                if is_last or has_stopped or self.record.is_due(self.step):
                    self._look(bar, plan)
                if is_last:
                    self._end_epoch(log, plan)
                elif has_stopped:
                    self._save(log)
                if has_stopped:
                    self.story.say(f"stopped at step {self.step} of {self.steps}; continue with --resume")
                    raise KeyboardInterrupt

    def _train_one_step(self, plan: StepPlan, x_NCHW: Tensor, labels_N: Tensor, log: MetricsLog | None) -> None:
        if plan.takes_teacher:
            tensors = {name: tensor.detach().clone() for name, tensor in self.supernet.tensors.items()}
            self.teacher = Supernet(self.supernet.space, tensors)
        teacher = self.teacher if _is_taught(plan) else None
        looks = self.diagnosis is not None and self.diagnosis.looks_at(self.step)
        watched, observer = plan, None
        if looks and self.diagnosis is not None:
            observer = self.diagnosis.observe
            watched = observed_plan(plan, sandwich(self.supernet.space, self.recipe, self.step, scale=0.0))
        wants_stop = self.stop.is_requested
        try:
            result = train_step(
                self.learner,
                watched,
                x_NCHW,
                labels_N,
                teacher,
                step=self.step,
                wants_stop=wants_stop,
                observer=observer,
            )
        except (RunError, SystemExit):
            # Another rank is gone, and the sum that the step was waiting for with it: nothing was learned from it.
            self._rescue(log)
            raise
        if looks and self.diagnosis is not None:
            self.diagnosis.write(watched, self.step)
        self.step += 1
        self.record.add(plan, result.records)
        self.account.add(plan, self.recipe.batch_size)

    def _look(self, bar: TrainingBar, plan: StepPlan) -> None:
        """Fetch the records from the device, show them, and end the run when they are no longer numbers."""
        self.record.fetch()
        bar.show(self.step, plan.epsilon, self.record.recent)
        if not self.record.is_finite:
            raise RunError(
                f"the loss is no longer a number at step {self.step}; lower --lr, or bound the gradient with "
                "--clip-gradient; the last good state is in the newest checkpoint"
            )

    def _end_epoch(self, log: MetricsLog | None, plan: StepPlan) -> None:
        epoch = math.ceil(self.step / self.steps_per_epoch)
        record: dict[str, Any] = {"epoch": epoch, "step": self.step, "lr": plan.lr, "epsilon": plan.epsilon}
        record |= self.record.losses()
        images = (self.step - (epoch - 1) * self.steps_per_epoch) * self.recipe.batch_size
        record[f"train_top1/{plan.shares[0].role}"] = self.record.right / images
        watched = {role: self._validate(arch) for role, arch in self._watched()}
        record |= {f"validation_top1/{role}": figure for role, figure in watched.items()}
        record["images_per_second"] = round(self.step * self.recipe.batch_size / self.seconds, 1)
        record["seconds"] = round(self.seconds, 2)
        if log is not None:
            log.append(self.step, record)
        self.record.clear()
        # An epoch in which the smallest was watched too ranks above those in which it was not trained yet.
        figure = (float(len(watched)), sum(watched.values()) / len(watched))
        if figure > self.best:
            self.best = figure
            if self.ranks.is_first:
                self._save_best(epoch, watched)
        self._save(log)
        if not self.story.is_terminal or epoch == self.recipe.epochs:
            self.story.say(self._line(record))

    def _watched(self) -> list[tuple[str, ArchSpec]]:
        space = self.supernet.space
        watched = [("largest", ArchSpec.largest(space))]
        if self.step > self.method.shrink_start:
            watched.append(("smallest", ArchSpec.smallest(space)))
        return watched

    def _validate(self, arch: ArchSpec) -> float:
        images = min(self.recipe.calibration_images, WATCH_IMAGES)
        module = calibrated(self.supernet, arch, self.data, images=images, ranks=self.ranks)
        return accuracy(module, self.data.validation, arch.resolution, ranks=self.ranks)

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
        return "  ".join([*parts, f"{record['images_per_second']:.0f} images/s", f"{format_seconds(left)} left"])

    def _save_best(self, epoch: int, watched: dict[str, float]) -> None:
        provenance = self.supernet.provenance | {
            "recipe": self.recipe.to_dict(),
            "steps": self.step,
            "images": describe(self.data),
            "epoch": epoch,
            "validation_top1": watched,
        }
        with whole_folder(self.folder / BEST, replace=True) as folder:
            Supernet(
                self.supernet.space, {n: t.detach() for n, t in self.supernet.tensors.items()}, provenance=provenance
            ).save(folder)
            for name in (RECIPE, FINDINGS):
                if (self.folder / name).exists():
                    (folder / name).write_bytes((self.folder / name).read_bytes())

    def _rescue(self, log: MetricsLog | None) -> None:
        """Save what was learned before this step, when it cannot be done and the other ranks cannot be asked."""
        if log is not None:
            self.record.fetch()
            self._save(log, is_cut_off=self.ranks.size > 1)
            self.story.say(f"stopped at step {self.step} of {self.steps}; continue with --resume")

    def _save(self, log: MetricsLog | None, *, is_cut_off: bool = False) -> None:
        cost = self.account.total(self.ranks, time.monotonic() - self.started, is_cut_off=is_cut_off)
        if log is None:
            return
        progress = Progress(
            step=self.step,
            seconds=self.seconds,
            metrics_bytes=log.length,
            sums=self.record.sums(),
            cost=cost.to_dict(),
            best=self.best,
        )
        state = State(
            weights=self.supernet.tensors,
            momentum=self.learner.momentum,
            teacher=self.teacher.tensors if self.teacher is not None else {},
        )
        save_checkpoint(self.folder, state, progress, keep=self.config.keep_checkpoints)

    def _finish(self) -> TrainReport | None:
        for tensor in self.learner.parameters.values():
            tensor.requires_grad_(False)
        self.supernet.provenance |= {"recipe": self.recipe.to_dict(), "steps": self.step, "images": describe(self.data)}
        seconds = self.seconds
        cost = self.account.total(self.ranks, time.monotonic() - self.started)
        subnets = measure(self.supernet, self.data, self.recipe, self.story, self.ranks)
        if not self.ranks.is_first:
            return None
        report = TrainReport(
            folder=str(self.folder),
            recipe=self.recipe.name,
            method=self.recipe.method,
            epochs=self.recipe.epochs,
            steps=self.steps,
            seconds=round(seconds, 1),
            images={s.name: len(s) for s in (self.data.train, self.data.validation, self.data.test)},
            subnets=subnets,
            cost=cost,
        )
        if self.diagnosis is not None:
            draw_gradients(self.folder, shrink_start=self.method.shrink_start)
        self.supernet.save(self.folder)
        write_json(self.folder / RESULTS, {"schema_version": SCHEMA_VERSION, **report.to_dict()})
        return report


def _is_taught(plan: StepPlan) -> bool:
    return any(share.loss in ("finished", "teacher") for share in plan.shares)
