"""Two real processes train what one would have trained, and neither waits for a dead one."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deps.supernet import Supernet
from deps.train.datasets import load_recipe_data
from deps.train.distributed import ALONE, Ranks
from deps.train.metrics import read_metrics
from deps.train.run import read_recipe, read_results

from .fork_server import ForkServer

FLAGS = " ".join(
    [
        "digits --epochs 2 --batch-size 16 --train-images 64 --warmup-fraction 0.5 --epsilon-ramp 0 --quiet",
        "--calibration-images 64 --evaluation-subnets 0 --random-subnets 1",
    ]
).split()


@dataclass
class Machine:
    """Where trainings of one or two processes are started."""

    server: ForkServer
    folder: Path

    def start(
        self, out: Path, *more: str, ranks: int = 2, at: dict[int, Any] | None = None, flags: list[str] = FLAGS
    ) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        pids = []
        for rank in range(ranks):
            env = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            log = self.folder / f"{out.name}.{rank}.log"
            log.unlink(missing_ok=True)
            words = [*flags, "--out", str(out), *more]
            pids.append(self.server.start(words, log, env=env, at=(at or {}).get(rank)))
        return pids

    def train(self, out: Path, *more: str, **how: Any) -> list[int]:
        return [self.server.wait(pid) for pid in self.start(out, *more, **how)]

    def said(self, out: Path, rank: int) -> str:
        return (self.folder / f"{out.name}.{rank}.log").read_text()


@pytest.fixture(scope="module")
def machine(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(fork_server, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone(machine: Machine) -> Path:
    """One process, groups of eight images."""
    out = machine.folder / "alone"
    assert machine.train(out, "--group-size", "8", ranks=1) == [0], machine.said(out, 0)
    return out


@pytest.fixture(scope="module")
def together(machine: Machine) -> Path:
    """Two processes, one group each."""
    out = machine.folder / "together"
    assert machine.train(out) == [0, 0], machine.said(out, 0) + machine.said(out, 1)
    return out


def require_close(one: Path, other: Path) -> None:
    first, second = (Supernet.load(run).tensors for run in (one, other))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-4, atol=1e-5, msg=name)


def test_two_processes_end_at_the_weights_of_one(alone: Path, together: Path):
    """BatchNorm sees the same groups, and one sum a step joins them."""
    assert read_recipe(together).group_size == 8
    require_close(alone, together)


def test_two_processes_measure_what_one_measures(alone: Path, together: Path):
    """Losses are means over the whole batch, accuracy and recalibration sums over all ranks."""
    for one, both in zip(read_metrics(alone), read_metrics(together), strict=True):
        assert one.keys() == both.keys()
        for name in one.keys() - {"seconds", "images_per_second"}:
            assert both[name] == pytest.approx(one[name], abs=1e-4), name
    first, second = read_results(alone), read_results(together)
    assert first is not None
    assert second is not None
    assert first["subnets"] == second["subnets"]


def test_the_account_counts_the_images_once_and_the_time_of_both(alone: Path, together: Path):
    """Two processes see half of the batch each, and cost twice their time."""
    first, second = (read_results(run) for run in (alone, together))
    assert first is not None
    assert second is not None
    # Eight steps of 16 images, subnets in four of them.
    assert first["cost"]["images"] == second["cost"]["images"] == {"largest": 128, "smallest": 64, "random": 64}
    assert first["cost"]["flops"] == second["cost"]["flops"]
    assert second["cost"]["device_seconds"] > second["seconds"]


def test_only_the_first_rank_writes_and_tells(machine: Machine, together: Path):
    """Two answers on stdout would be no answer."""
    assert "supernet in" in machine.said(together, 0)
    assert machine.said(together, 1) == ""
    assert len(list((together / "tensorboard").glob("events.*"))) == 1


def test_a_stop_of_one_rank_saves_once_and_another_number_of_ranks_goes_on(machine: Machine, alone: Path):
    """Spot machines take one of many; what is left continues, even a single process."""
    out = machine.folder / "stopped"
    assert machine.train(out, at={1: {"step": 2, "do": "SIGTERM"}}) == [130, 130]
    (checkpoint,) = (out / "checkpoints").iterdir()
    assert checkpoint.name == "step-00000003.safetensors"
    assert machine.train(out, "--resume", ranks=1) == [0], machine.said(out, 0)
    require_close(alone, out)


def test_ranks_that_cannot_share_the_groups_are_refused(machine: Machine, alone: Path):
    """With the numbers that can."""
    out = machine.folder / "uneven"
    assert machine.train(out, "--group-size", "16") == [1, 1]
    # Both see it; whoever is the first to tell is the only one.
    (line,) = (machine.said(out, 0) + machine.said(out, 1)).splitlines()
    assert "which 2 processes cannot share evenly; start 1 of them" in line


def test_a_rank_that_fails_ends_the_others_with_one_message(machine: Machine):
    """The reason is told once, by the rank that met it."""
    out = machine.folder / "failing"
    assert machine.train(out, at={1: {"step": 3, "do": "fail"}}) == [1, 1]
    assert machine.said(out, 1) == "deps-train: images/cat.png cannot be read; mend it\n"
    assert machine.said(out, 0) == ""


PICTURES = " ".join(
    [
        "imagefolder --space cifar-mbv3-narrow --resolutions 24 --epochs 1 --batch-size 8 --depths 2 --expands 3",
        "--kernels 3 --random-subnets 0 --evaluation-subnets 0 --calibration-images 16 --threads 1 --lr-warmup 0",
        "--mean 0.5,0.5,0.5 --std 0.25,0.25,0.25 --group-size 4 --workers 0 --quiet",
    ]
).split()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_picture_that_breaks_in_one_rank_costs_no_step(machine: Machine, root: Path, tmp_path: Path, rank: int):
    """The first rank saves what all had learned, whoever met it; mended, the run goes on to what it would have been."""
    whole, out, flags = tmp_path / "whole", tmp_path / f"broken-{rank}", [*PICTURES, "--data", str(root)]
    assert machine.train(whole, flags=flags) == [0, 0], machine.said(whole, 0) + machine.said(whole, 1)
    recipe = read_recipe(whole)
    row = np.random.default_rng((recipe.seed, 0, 0)).permutation(32)[2 * 8 + 4 * rank]
    victim = load_recipe_data(recipe).train.paths[row]  # type: ignore[attr-defined]
    good = victim.read_bytes()
    victim.write_bytes(good[: len(good) // 2])
    assert machine.train(out, flags=flags) == [1, 1]
    assert f"{victim.name} cannot be read as a picture" in machine.said(out, rank)
    assert machine.said(out, 1 - rank) == ""
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000002.safetensors"]
    victim.write_bytes(good)
    assert machine.train(out, "--resume", flags=flags) == [0, 0], machine.said(out, 0) + machine.said(out, 1)
    require_close(whole, out)
    assert [r["step"] for r in read_metrics(out)] == [r["step"] for r in read_metrics(whole)] == [4]


def test_four_ranks_go_on_where_two_stopped(machine: Machine):
    """A larger machine takes over, and again the weights are those of one process."""
    alone, out = machine.folder / "alone-four", machine.folder / "four"
    assert machine.train(alone, "--group-size", "4", ranks=1) == [0], machine.said(alone, 0)
    assert machine.train(out, "--group-size", "4", at={0: {"step": 3, "do": "SIGTERM"}}) == [130, 130]
    assert machine.train(out, "--resume", ranks=4) == [0] * 4, "".join(machine.said(out, rank) for rank in range(4))
    assert read_recipe(out).group_size == 4
    require_close(alone, out)


def test_a_rank_that_dies_is_named_by_the_others_within_seconds(machine: Machine):
    """No hang, no traceback: which rank, and what to do."""
    out = machine.folder / "dying"
    first, second = machine.start(out, at={1: {"step": 6, "do": "SIGKILL"}})
    assert machine.server.wait(second) == -9
    died = time.monotonic()
    assert machine.server.wait(first) == 1
    assert time.monotonic() - died < 60  # a hang would last ten minutes
    (line,) = machine.said(out, 0).splitlines()
    assert line.startswith("deps-train: rank 1 of 2 on ")
    assert "died or cannot be reached" in line
    assert "--resume" in line
    # What died in its sixth step had five behind it, and so had the first rank.
    assert max(path.name for path in (out / "checkpoints").iterdir()) == "step-00000005.safetensors"


def test_one_process_needs_nobody():
    """The same code runs without torch.distributed."""
    assert ALONE.sum_numbers(1.5, 2) == [1.5, 2]
    assert ALONE.part(7) == slice(0, 7)


def test_parts_of_all_ranks_are_the_whole():
    """Also where they cannot be even."""
    parts = [Ranks(rank, 3).part(8) for rank in range(3)]
    assert [row for part in parts for row in range(8)[part]] == list(range(8))
