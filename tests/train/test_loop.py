"""A run can be stopped at any moment and goes on to the same result, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deps.ground.console import Story
from deps.ground.errors import RunError
from deps.supernet import ArchSpec, Supernet
from deps.train import loop
from deps.train.cli import main
from deps.train.loop import TrainConfig, train
from deps.train.methods import method_of
from deps.train.methods.phased import Phased
from deps.train.metrics import read_metrics
from deps.train.run import newest_run, open_run

from .conftest import tiny_flags, tiny_recipe
from .fork_server import ForkServer

QUIET = Story(quiet=True)


def weights(run: Path) -> bytes:
    return (run / "supernet.safetensors").read_bytes()


def metrics(run: Path) -> list[dict[str, object]]:
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "images_per_second")} for record in read_metrics(run)
    ]


def test_a_run_folder_holds_what_it_should(finished_run: Path):
    """Supernet, recipe, metrics, TensorBoard events, results."""
    names = {path.name for path in finished_run.iterdir()}
    assert {
        "supernet.safetensors",
        "supernet.json",
        "recipe.json",
        "metrics.jsonl",
        "tensorboard",
        "results.json",
    } <= names
    assert list((finished_run / "tensorboard").glob("events.out.tfevents.*"))
    records = read_metrics(finished_run)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert "loss/smallest" not in records[0]
    assert records[0]["epsilon"] == 0
    assert records[2]["epsilon"] == 1
    run = open_run(finished_run)
    assert run.recipe == tiny_recipe(group_size=16)  # what 0 came to, so that a resumed run keeps it
    assert len(run.data().train) == 64
    supernet = run.supernet()
    assert isinstance(supernet, Supernet)
    assert supernet.provenance["recipe"]["epochs"] == 3
    assert newest_run(finished_run.parent).folder == finished_run


def test_the_table_covers_smallest_random_and_largest(finished_run: Path):
    """On images that were not trained on."""
    results = json.loads((finished_run / "results.json").read_text())
    assert [subnet["role"] for subnet in results["subnets"]] == ["smallest", "random", "largest"]
    assert all(0 <= subnet["test_top1"] <= 1 for subnet in results["subnets"])
    space = open_run(finished_run).supernet().space
    assert ArchSpec.from_dict(space, results["subnets"][-1]["arch"]) == ArchSpec.largest(space)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(finished_run: Path, tmp_path: Path):
    """Everything random takes a seed."""
    train(TrainConfig(recipe=tiny_recipe(), out=tmp_path / "same"), QUIET)
    train(TrainConfig(recipe=tiny_recipe(seed=1), out=tmp_path / "other"), QUIET)
    assert weights(tmp_path / "same") == weights(finished_run)
    assert metrics(tmp_path / "same") == metrics(finished_run)
    assert weights(tmp_path / "other") != weights(finished_run)


@pytest.mark.parametrize("moment", [0, 1, 3, 4, 5, 7, 8, 11])
def test_a_crash_after_any_step_costs_nothing(finished_run: Path, tmp_path: Path, moment: int, monkeypatch):
    """The process dies between a step and what would be saved of it; the next one ends at the same bits."""
    real, done = loop.train_step, []

    def crash(*args: object, **kwargs: object) -> object:
        if len(done) == moment:
            raise MemoryError
        done.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, "train_step", crash)
    with pytest.raises(MemoryError):
        train(TrainConfig(recipe=tiny_recipe(), out=tmp_path / "run"), QUIET)
    monkeypatch.setattr(loop, "train_step", real)
    train(TrainConfig(recipe=tiny_recipe(), out=tmp_path / "run", resume=True), QUIET)
    assert weights(tmp_path / "run") == weights(finished_run)
    assert metrics(tmp_path / "run") == metrics(finished_run)


def test_kill_minus_nine_at_twenty_random_moments_costs_nothing(fork_server: ForkServer, tmp_path: Path):
    """For real, in steps, in saves, in the table at the end; what is finished is the uninterrupted run, all of it."""
    words = [
        "digits --epochs 4 --batch-size 8 --train-images 16 --random-subnets 0 --epsilon-ramp 1 --quiet",
        "--calibration-images 16 --evaluation-subnets 0 --resume --out",
    ]
    flags = " ".join(words).split()
    log, whole, rng, kills, runs = tmp_path / "log", tmp_path / "whole", random.Random(0), 0, 0
    start = time.monotonic()
    assert fork_server.wait(fork_server.start([*flags, str(whole)], log)) == 0
    length = time.monotonic() - start
    while kills < 20:
        out, code = tmp_path / f"run-{runs}", -9
        while code == -9:
            process = fork_server.start([*flags, str(out)], log)
            if kills < 20:
                time.sleep(rng.uniform(0, 0.3 * length))
                os.kill(process, signal.SIGKILL)
            code = fork_server.wait(process)
            kills += code == -9
        assert code == 0, log.read_text()
        assert weights(out) == weights(whole)
        assert weights(out / "best") == weights(whole / "best")
        assert metrics(out) == metrics(whole)
        assert not list(out.rglob("*.tmp"))
        runs += 1


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ctrl_c_saves_the_middle_of_an_epoch(fork_server: ForkServer, finished_run: Path, tmp_path: Path, name: str):
    """Exit code 130, nothing lost, and no line of the metrics twice."""
    out, log = tmp_path / "run", tmp_path / "log"
    assert fork_server.wait(fork_server.start(tiny_flags(out), log, at={"step": 6, "do": name})) == 130
    assert "Traceback" not in log.read_text()
    assert [path.name for path in sorted((out / "checkpoints").iterdir())][-1] == "step-00000006.safetensors"
    assert main(tiny_flags(out, "--resume")) == 0
    assert weights(out) == weights(finished_run)
    assert metrics(out) == metrics(finished_run)


@pytest.mark.parametrize("method", ["deps", "ofa"])
def test_a_last_epoch_can_be_cut_short(tmp_path: Path, method: str, capsys):
    """Two and a half epochs of four steps: the schedule ends after ten, and the half epoch has its line."""
    out = tmp_path / "cut"
    flags = tiny_flags(out, "--last-epoch", "0.5", "--method", method, "--keep-checkpoints", "9")
    assert main(flags) == 0
    records = read_metrics(out)
    assert [(record["epoch"], record["step"]) for record in records] == [(1, 4), (2, 8), (3, 10)]
    assert all(0 <= v <= 1 for record in records for k, v in record.items() if k.startswith("train_top1"))
    results = json.loads((out / "results.json").read_text())
    assert results["steps"] == 10
    assert max(results["cost"]["images"].values()) <= 2 * 160
    recipe = tiny_recipe(last_epoch=0.5, method=method)
    schedule = method_of(recipe.search_space(10), recipe, 4)
    # What comes after the last step would have a rate of 0, or be the last phase's still.
    assert schedule.ends[-1] == 10 if isinstance(schedule, Phased) else schedule.plan(10).lr == 0
    assert main(tiny_flags(out, "--method", method, "--resume")) == 1
    assert "last_epoch 0.5 there and 1.0 now" in capsys.readouterr().err


def test_the_newest_checkpoints_and_the_best_supernet_are_kept(finished_run: Path, tmp_path: Path):
    """As many as asked for; the best is what the metrics say it is, and opens like a run."""
    kept = sorted(path.name for path in (finished_run / "checkpoints").iterdir())
    assert kept == ["step-00000008.safetensors", "step-00000012.safetensors"]
    best = open_run(finished_run / "best").supernet().provenance
    watched = [r for r in read_metrics(finished_run) if "validation_top1/smallest" in r]
    figures = {r["epoch"]: (r["validation_top1/largest"] + r["validation_top1/smallest"]) / 2 for r in watched}
    assert figures[best["epoch"]] == max(figures.values())
    assert main(tiny_flags(tmp_path / "one", "--epochs", "2", "--keep-checkpoints", "1")) == 0
    assert len(list((tmp_path / "one" / "checkpoints").iterdir())) == 1
    assert main(tiny_flags(tmp_path / "none", "--keep-checkpoints", "0")) == 1


def test_a_finished_teacher_can_teach_in_the_place_of_the_full_model(finished_run: Path, tmp_path: Path, capsys):
    """The ablation of in-place distillation: one flag, and the teacher's passes are in the account."""
    out = tmp_path / "taught"
    assert main(tiny_flags(out, "--teacher", str(finished_run), "--epochs", "2", "--warmup-fraction", "0.5")) == 0
    images = json.loads((out / "results.json").read_text())["cost"]["images"]
    assert images == {"largest": 128, "smallest": 64, "random": 128, "teacher": 64}
    assert main(tiny_flags(tmp_path / "lost", "--teacher", str(tmp_path / "nobody"))) == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_broken_newest_checkpoint_falls_back_and_says_so(finished_run: Path, tmp_path: Path, monkeypatch, capsys):
    """A file that the disk did not keep is not the end of a week's training."""
    out, real = tmp_path / "run", loop.train_step
    calls: list[int] = []

    def crash(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) > 9:
            raise MemoryError
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, "train_step", crash)
    with pytest.raises(MemoryError):
        train(TrainConfig(recipe=tiny_recipe(), out=out), QUIET)
    monkeypatch.setattr(loop, "train_step", real)
    newest = max((out / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    train(TrainConfig(recipe=tiny_recipe(), out=out, resume=True), QUIET)
    assert "falling back to the checkpoint before it" in capsys.readouterr().err
    assert weights(out) == weights(finished_run)


@pytest.mark.parametrize("method", ["ofa", "compofa", "bignas"])
def test_every_method_resumes_to_the_same_bits(tmp_path: Path, method: str, monkeypatch):
    """OFA's teacher is part of the state: without it, a resumed run would learn from another one."""
    recipe = tiny_recipe(method=method, epochs=4, train_images=32)
    train(TrainConfig(recipe=recipe, out=tmp_path / "whole"), QUIET)
    real, done = loop.train_step, []

    def crash(*args: object, **kwargs: object) -> object:
        if len(done) == 6:
            raise MemoryError
        done.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, "train_step", crash)
    with pytest.raises(MemoryError):
        train(TrainConfig(recipe=recipe, out=tmp_path / "run"), QUIET)
    monkeypatch.setattr(loop, "train_step", real)
    train(TrainConfig(recipe=recipe, out=tmp_path / "run", resume=True), QUIET)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_finished_run_is_shown_and_not_trained_again(finished_run: Path, capsys):
    """make train is quick the second time."""
    assert main(tiny_flags(finished_run, "--resume", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["subnets"][0]["role"] == "smallest"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "--resume"),
        (["--resume", "--seed", "5"], "other settings (seed 0 there and 5 now)"),
        (["--resume", "--overwrite"], "give one of them"),
        (["--device", "tpu"], "unknown device"),
    ],
)
def test_a_run_that_is_there_is_never_lost_by_accident(finished_run: Path, capsys, flags: list[str], told: str):
    """Each refusal says what to do."""
    before = weights(finished_run)
    argv = tiny_flags(finished_run, *flags) if "tpu" not in flags else tiny_flags(finished_run.parent / "new", *flags)
    assert main(argv) == 1
    assert told in capsys.readouterr().err
    assert weights(finished_run) == before


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys):
    """--overwrite must not remove somebody's photos either."""
    (tmp_path / "photo.jpg").write_text("x")
    assert main(tiny_flags(tmp_path, "--overwrite")) == 1
    assert "not a run folder" in capsys.readouterr().err
    assert (tmp_path / "photo.jpg").exists()


def test_two_trainings_do_not_share_a_folder(finished_run: Path, capsys):
    """The second would overwrite the first's checkpoints."""
    from deps.train.run import locked

    with locked(finished_run):
        assert main(tiny_flags(finished_run, "--resume")) == 1
    assert "in use by another" in capsys.readouterr().err


def test_a_loss_that_is_not_a_number_ends_the_run_with_advice(tmp_path: Path, capsys):
    """Hours of NaN help nobody."""
    assert main(tiny_flags(tmp_path / "run", "--lr", "1e20")) == 1
    assert "lower --lr" in capsys.readouterr().err


def test_an_unfinished_or_damaged_run_is_named(tmp_path: Path, finished_run: Path):
    """What comes after training opens runs by this."""
    with pytest.raises(RunError, match="does not exist"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match="not a run folder"):
        open_run(tmp_path)
    (tmp_path / "recipe.json").write_text((finished_run / "recipe.json").read_text())
    with pytest.raises(RunError, match="deps-train digits --resume"):
        open_run(tmp_path)
    (tmp_path / "supernet.json").write_text((finished_run / "supernet.json").read_text())
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        open_run(tmp_path)
    with pytest.raises(RunError, match="no finished run"):
        newest_run(tmp_path / "none")


def test_a_full_disk_ends_the_run_with_a_message_and_resumes(finished_run: Path, tmp_path: Path):
    """A limit on the size of files stands for the full disk; afterwards the run goes on to the same bits."""
    out = tmp_path / "run"
    code = (
        "import resource, signal, sys; from deps.train.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *tiny_flags(out)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert main(tiny_flags(out, "--resume")) == 0
    assert weights(out) == weights(finished_run)
