"""Tiny real trainings: 64 real digits, a handful of steps, every code path of a long run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deps.ground.console import Story
from deps.train.loop import TrainConfig, train
from deps.train.recipe import Recipe
from deps.train.recipes import get_recipe

from .fork_server import ForkServer


def tiny_recipe(**changes: object) -> Recipe:
    """Three epochs of four steps; shrinking starts after the first."""
    settings = {"epochs": 3, "batch_size": 16, "train_images": 64, "warmup_fraction": 0.34, "epsilon_ramp": 1.0}
    settings |= {"calibration_images": 64, "evaluation_subnets": 1}
    return replace(get_recipe("digits"), **{**settings, **changes})  # type: ignore[arg-type]


TINY_FLAGS = [
    "digits --epochs 3 --batch-size 16 --train-images 64 --warmup-fraction 0.34 --epsilon-ramp 1",
    "--calibration-images 64 --evaluation-subnets 1 --quiet",
]


def tiny_flags(out: Path, *more: str) -> list[str]:
    """The command line of ``tiny_recipe``."""
    return [*" ".join(TINY_FLAGS).split(), "--out", str(out), *more]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(TrainConfig(recipe=tiny_recipe(), out=out), Story(quiet=True))
    return out


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """A process that starts trainings without importing torch again."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of pictures of two colours: sixteen each to train on, four for the rest."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 4)):
        for name, shade in (("dark", 60), ("light", 200)):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(rng.normal(shade, 30, (40, 48, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:02d}.jpg", quality=90)
    return tmp_path / "pictures"
