"""Watching gradients tells how they lie to each other, and changes nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from deps.supernet import Supernet
from deps.train.cli import main
from deps.train.diagnose import Diagnosis, compared, draw_gradients, read_gradients, stage_of
from deps.train.distributed import ALONE
from deps.train.methods import method_of
from deps.train.step import Learner, train_step

from .conftest import tiny_flags, tiny_recipe


def test_norm_and_cosine_are_those_of_the_vectors():
    """A subnet without a tensor has a gradient of 0 there."""
    full = {"stem.0.weight": torch.tensor([3.0, 4.0]), "stages.1.0.weight": torch.tensor([1.0])}
    subnet = {"stem.0.weight": torch.tensor([6.0, 0.0])}
    found = compared(subnet, full)
    assert list(found) == ["all", "stem", "stage 2"]
    assert found["stem"] == {"norm": 6.0, "full_norm": 5.0, "cosine": pytest.approx(0.6)}
    assert found["stage 2"] == {"norm": 0.0, "full_norm": 1.0, "cosine": 0.0}
    assert found["all"]["cosine"] == pytest.approx(18 / (6 * math.sqrt(26)))


def test_stages_are_counted_from_one():
    """As in the tables of the papers."""
    names = ("stem.0.conv.weight", "stages.0.1.expand.conv.weight", "head.0.conv.weight", "classifier.bias")
    assert [stage_of(name) for name in names] == ["stem", "stage 1", "head", "classifier"]


def test_a_diagnosed_run_ends_at_the_same_bits_and_sees_both_sides_of_the_switch(finished_run: Path, tmp_path: Path):
    """Subnets' gradients before shrinking are looked at and count for nothing."""
    out = tmp_path / "run"
    assert main(tiny_flags(out, "--diagnose-gradients", "2")) == 0
    assert (out / "supernet.safetensors").read_bytes() == (finished_run / "supernet.safetensors").read_bytes()
    records = read_gradients(out)
    assert [record["step"] for record in records] == [step for step in range(0, 12, 2) for _ in range(3)]
    assert [record["role"] for record in records[:3]] == ["smallest", "random", "random"]
    assert records[0]["epsilon"] == 0
    assert records[-1]["epsilon"] == 1
    for record in records:
        assert {"all", "stem", "stage 1", "head", "classifier"} <= record["stages"].keys()
        assert all(-1.000001 <= stage["cosine"] <= 1.000001 for stage in record["stages"].values())
    assert (out / "gradients.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "gradients.svg").read_text()


def test_lines_of_steps_that_are_done_again_are_not_kept(tmp_path: Path):
    """A resumed run writes them anew; a line that a crash cut short is left out."""
    lines = [json.dumps({"step": step}) for step in (0, 5, 10)]
    (tmp_path / "gradients.jsonl").write_text("\n".join(lines) + '\n{"step": 1')
    assert [record["step"] for record in read_gradients(tmp_path)] == [0, 5, 10]
    assert draw_gradients(tmp_path / "none", shrink_start=3) == []


def test_the_observed_cosine_is_that_of_two_backward_passes_by_hand(tmp_path: Path):
    """Gradients of subnet and full model in training are nearly at right angles; that must not be our arithmetic."""
    recipe = tiny_recipe(kernels=(3,), dropout=0.0, warmup_fraction=0.0, epsilon_ramp=0.0)
    space = recipe.search_space(10)
    supernet, plan = Supernet.create(space, seed=1), method_of(space, recipe, 4).plan(1)
    x, labels = torch.randn(8, space.in_channels, 8, 8, generator=torch.manual_seed(3)), torch.arange(8) % 10
    full, small = (supernet.subnet(share.arch).train().requires_grad_() for share in plan.shares[:2])
    logits = full(x)
    F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing).backward()
    F.cross_entropy(small(x), logits.detach().softmax(1)).backward()
    mine, theirs = ({n: p.grad for n, p in net.named_parameters()} for net in (small, full))
    square = [sum(float(g.double().square().sum()) for g in one.values()) for one in (mine, theirs)]
    product = sum(float((g * theirs[n][tuple(slice(0, s) for s in g.shape)]).double().sum()) for n, g in mine.items())

    learner = Learner.create(supernet, recipe)
    diagnosis = Diagnosis(supernet, tmp_path, ALONE, every=1, step=0)
    train_step(learner, plan, x, labels, step=1, observer=diagnosis.observe)
    diagnosis.write(plan, 1)
    found = read_gradients(tmp_path)[0]["stages"]["all"]
    assert abs(product) > 1e-3 * math.sqrt(square[0] * square[1])
    assert found["cosine"] == pytest.approx(product / math.sqrt(square[0] * square[1]), rel=1e-3)
    assert found["norm"] == pytest.approx(math.sqrt(square[0]), rel=1e-3)
    assert found["full_norm"] == pytest.approx(math.sqrt(square[1]), rel=1e-3)
