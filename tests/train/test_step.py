"""One step of the supernet is the sum of steps of plain networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deps.supernet import ArchSpec, Supernet, get_space
from deps.supernet.sorting import channel_orders, reorder
from deps.supernet.supernet import is_statistic
from deps.train.datasets import load_data
from deps.train.device import memory_format
from deps.train.losses import distill_loss, label_loss
from deps.train.methods import Share, StepPlan, method_of
from deps.train.methods.compofa import draw_compound
from deps.train.methods.phased import Phased
from deps.train.step import Learner, train_step

from .conftest import tiny_recipe

SPACE = get_space("digits")
RECIPE = replace(tiny_recipe(), dropout=0.0, clip_gradient=0.0)


def batch() -> tuple[Tensor, Tensor]:
    return load_data("digits").training_batch(3, 16, seed=0)


def sandwich_plan(epsilon: float, *, sorts: bool = False) -> StepPlan:
    mid = ArchSpec.create(SPACE, kernels=3, expands=3, depths=[1, 2, 1])
    shares = (
        Share(ArchSpec.largest(SPACE), "largest", "labels", 1.0, 0.0),
        Share(ArchSpec.smallest(SPACE), "smallest", "distill", epsilon, 0.0),
        Share(mid, "random", "distill", epsilon, 0.0),
    )
    return StepPlan(lr=0.05, shares=shares, epsilon=epsilon, sorts_channels=sorts)


def set_up(**changes: object) -> Learner:
    return Learner.create(Supernet.create(SPACE, seed=1), replace(RECIPE, **changes))  # type: ignore[arg-type]


def embedded(small: Tensor, like: Tensor) -> Tensor:
    """A gradient of the leading corner, as a gradient of the whole tensor."""
    whole = torch.zeros_like(like)
    whole[tuple(slice(n) for n in small.shape)] = small
    return whole


def test_gradients_are_the_hand_written_sum_over_plain_networks():
    """g = g_full + ε · Σ g_subnet, for every tensor that is shared by its leading corner."""
    x, labels = batch()
    learner = set_up()
    nets = {share.role: (share, learner.supernet.subnet(share.arch).train()) for share in sandwich_plan(0.25).shares}

    teacher = nets["largest"][1](x)
    label_loss(teacher, labels, smoothing=RECIPE.label_smoothing).backward()
    for role in ("smallest", "random"):
        share, net = nets[role]
        (share.scale * distill_loss(net(x), teacher.detach())).backward()

    expected = {name: torch.zeros_like(tensor) for name, tensor in learner.parameters.items()}
    for _, net in nets.values():
        for name, parameter in net.named_parameters():
            if ".depthwise.conv." not in name:
                expected[name] += embedded(parameter.grad, expected[name])

    train_step(learner, sandwich_plan(0.25), x, labels)
    compared = 0
    for name, tensor in learner.parameters.items():
        if ".depthwise.conv." in name or "matrix" in name:
            continue
        torch.testing.assert_close(tensor.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)
        compared += 1
    assert compared > 50


def test_kernel_matrices_learn_from_the_small_kernels_only():
    """A 3 x 3 kernel passes through the matrix, the largest does not."""
    learner = set_up()
    train_step(learner, sandwich_plan(1.0), *batch())
    assert all(t.grad is not None for n, t in learner.parameters.items() if n.startswith("stages.0.0.depthwise.matrix"))
    learner = set_up()
    full = replace(sandwich_plan(0.0), shares=sandwich_plan(0.0).shares[:1])
    train_step(learner, full, *batch())
    assert all(t.grad is None for n, t in learner.parameters.items() if "matrix" in n)


def test_subnets_leave_the_full_models_statistics_alone():
    """Otherwise all subnets fight over them."""
    x, labels = batch()
    alone, together = set_up(), set_up()
    train_step(alone, replace(sandwich_plan(0.0), shares=sandwich_plan(0.0).shares[:1]), x, labels)
    train_step(together, sandwich_plan(1.0), x, labels)
    for name, tensor in alone.supernet.tensors.items():
        if is_statistic(name):
            assert torch.equal(tensor, together.supernet.tensors[name]), name


def test_sorting_changes_neither_the_full_model_nor_its_next_step():
    """Momentum buffers are sorted with their channels; the published code forgets them."""
    x, labels = batch()
    full = replace(sandwich_plan(0.0), shares=sandwich_plan(0.0).shares[:1])
    plain, sorted_ = set_up(), set_up()
    for _ in range(3):
        train_step(plain, full, x, labels)
        train_step(sorted_, full, x, labels)
    train_step(plain, full, x, labels)
    train_step(sorted_, replace(full, sorts_channels=True), x, labels)
    largest = ArchSpec.largest(SPACE)
    assert not torch.equal(
        plain.supernet.tensors["stages.0.0.project.conv.weight"],
        sorted_.supernet.tensors["stages.0.0.project.conv.weight"],
    )
    with torch.no_grad():
        torch.testing.assert_close(plain.supernet(x, largest), sorted_.supernet(x, largest), rtol=1e-3, atol=1e-4)


def test_momentum_is_held_for_every_parameter_from_the_start():
    """So that a checkpoint of any moment has the same tensors."""
    learner = set_up()
    assert set(learner.momentum) == set(learner.parameters)


def test_weight_decay_spares_norms_and_biases():
    """As in the published recipe."""
    learner = set_up()
    parameters = learner.parameters
    decayed = {id(t) for g in learner.optimizer.param_groups if g["weight_decay"] > 0 for t in g["params"]}
    assert {n for n, t in parameters.items() if id(t) in decayed} == {n for n, t in parameters.items() if t.dim() > 1}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_classifier_learns_at_its_share_of_the_rate(momentum: float):
    """A rate at which convolutions learn may be too high for a classifier of many normalised features."""
    x, labels = batch()
    full = replace(sandwich_plan(0.0), shares=sandwich_plan(0.0).shares[:1])
    moved = []
    for share in (1.0, 0.25):
        learner = set_up(classifier_lr=share, momentum=momentum)
        before = {name: tensor.detach().clone() for name, tensor in learner.parameters.items()}
        train_step(learner, full, x, labels)
        moved.append({name: tensor.detach() - before[name] for name, tensor in learner.parameters.items()})
    whole, part = moved
    assert whole["classifier.weight"].abs().max() > 1e-4
    for name in whole:
        share = 0.25 if name.startswith("classifier.") else 1.0
        torch.testing.assert_close(part[name], share * whole[name], rtol=1e-3, atol=1e-7)


def test_a_late_start_finds_the_cosine_where_it_was_told_to_be():
    """Of 20 steps subnets join at 16, with half of the cosine behind; ε ramps to the rate of the bent cosine."""
    recipe = tiny_recipe(epochs=5, warmup_fraction=0.8, cosine_at_shrink=0.5, epsilon_ramp=0.5, lr=0.2)
    plans = [method_of(SPACE, recipe, 4).plan(step) for step in range(20)]
    assert [plans[step].lr for step in (0, 8, 16, 18)] == pytest.approx([0.2, 0.1707107, 0.1, 0.0292893])
    assert [plan.epsilon for plan in plans[15:18]] == pytest.approx([0, 0.5 * 0.3086583 / 0.5, 1.0], rel=1e-5)
    paper = method_of(SPACE, replace(recipe, cosine_at_shrink=0.0), 4)
    assert paper.plan(16).lr == pytest.approx(0.2 * 0.0954915)


def test_deps_warms_up_then_shrinks_and_sorts_once():
    """FM-Warmup, then the sandwich; channels are sorted at the switch and never again."""
    method = method_of(SPACE, tiny_recipe(random_subnets=2), 4)
    plans = [method.plan(step) for step in range(12)]
    assert [len(plan.shares) for plan in plans] == [1] * 4 + [4] * 8
    assert [step for step, plan in enumerate(plans) if plan.sorts_channels] == [4]
    assert [share.loss for share in plans[5].shares] == ["labels", "distill", "distill", "distill"]
    assert [share.scale for share in plans[11].shares] == [1.0] * 4
    assert 0 < plans[4].epsilon < plans[5].epsilon < 1
    assert {share.scale for share in plans[4].shares[1:]} == {plans[4].epsilon}


def test_bignas_is_the_sandwich_from_the_first_step():
    """No warm-up, no ε, no sorting."""
    method = method_of(SPACE, tiny_recipe(method="bignas"), 4)
    assert all(len(method.plan(s).shares) == 4 and method.plan(s).epsilon == 1.0 for s in range(12))
    assert not any(method.plan(s).sorts_channels for s in range(12))


def test_random_subnets_depend_on_seed_step_and_index_alone():
    """So that all ranks, and a resumed run, draw the same."""
    first, again = (method_of(SPACE, tiny_recipe(), 4) for _ in range(2))
    assert first.plan(9) == again.plan(9)
    drawn = {first.plan(step).shares[i].arch for step in range(4, 12) for i in (2, 3)}
    assert len(drawn) > 10
    assert method_of(SPACE, tiny_recipe(seed=1), 4).plan(9).shares[2:] != first.plan(9).shares[2:]


def test_ofa_frees_one_axis_after_the_other():
    """A teacher, then kernel, depth in two steps, expand in two steps; every phase keeps what the ones before freed."""
    epochs = 59
    method = method_of(SPACE, tiny_recipe(method="ofa", epochs=epochs), 10)
    assert isinstance(method, Phased)
    plans = [method.plan(step) for step in range(epochs * 10)]
    names = [method.phases[method.phase_at(step)].name for step in range(epochs * 10)]
    seen: dict[str, set[ArchSpec]] = {name: set() for name in names}
    for name, plan in zip(names, plans, strict=True):
        seen[name] |= {share.arch for share in plan.shares}
    assert list(seen) == ["teacher", "kernel", "depth 1", "depth 2", "expand 1", "expand 2"]

    def choices(name: str, axis: str) -> set[float]:
        return {value for arch in seen[name] for value in getattr(arch, axis)} - {0}

    assert seen["teacher"] == {ArchSpec.largest(SPACE)}
    assert [choices(name, "kernels") for name in seen] == [{5}, *[{3, 5}] * 5]
    assert [choices(name, "depths") for name in seen] == [{2}, {2}, *[{1, 2}] * 4]
    assert [choices(name, "expands") for name in seen] == [{4}, {4}, {4}, {4}, {3, 4}, {2, 3, 4}]
    assert [len(plans[names.index(name)].shares) for name in seen] == [1, 1, 2, 2, 4, 4]
    sorted_at = [(names[step], plan.sorting_rings) for step, plan in enumerate(plans) if plan.sorts_channels]
    assert sorted_at == [("expand 1", 0), ("expand 2", 1)]
    assert [names[step] for step, plan in enumerate(plans) if plan.takes_teacher] == ["kernel"]
    lengths = [names.count(name) for name in seen]
    assert lengths == [180, 120, 25, 120, 25, 120]
    assert all(plans[names.index(name)].lr > plans[names.index(name) + 20].lr for name in seen)


def test_compofa_ties_expand_to_depth():
    """The n-th depth of a stage comes with its n-th expand ratio; kernels stay the largest."""
    space = get_space("ofa-mbv3-w1.0")
    rng = np.random.default_rng(0)
    drawn = {draw_compound(space, rng, choices=None) for _ in range(3000)}
    tied = {2: 3, 3: 4, 4: 6}
    for arch in drawn:
        for s, depth in enumerate(arch.depths):
            blocks = arch.expands[4 * s : 4 * s + depth]
            assert set(blocks) == {tied[depth]}
        assert set(arch.kernels) == {7, 0} or set(arch.kernels) == {7}
    assert len(drawn) == 3**5
    assert {d for _ in range(200) for d in draw_compound(space, rng, choices=2).depths} == {3, 4}


def test_a_finished_teacher_teaches_beside_the_labels():
    """OFA's loss: cross-entropy with the labels, and with the teacher's softmax, in equal parts."""
    x, labels = batch()
    learner = set_up()
    teacher = Supernet.create(SPACE, seed=9)
    arch = ArchSpec.smallest(SPACE)
    plan = StepPlan(lr=0.1, shares=(Share(arch, "random", "teacher", 1.0, 0.0),), epsilon=1.0, sorts_channels=False)

    student, taught_by = learner.supernet.subnet(arch).train(), teacher.subnet(ArchSpec.largest(SPACE)).train()
    logits = student(x)
    expected = label_loss(logits, labels, smoothing=0.1) + distill_loss(logits, taught_by(x))
    result = train_step(learner, plan, x, labels, teacher)
    torch.testing.assert_close(result.losses["random"], expected.detach())
    fresh = Supernet.create(SPACE, seed=9).tensors
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in teacher.tensors.items())


METHOD_STEPS = {"deps": 17, "bignas": 0, "ofa": 30, "compofa": 40}


@pytest.mark.parametrize(("method", "options"), [
    *[(method, {}) for method in METHOD_STEPS],
    ("deps", {"distill": False}), ("deps", {"gradient_average": True}), ("deps", {"random_subnets": 0}),
    ("deps", {"distill_temperature": 2.0}), ("deps", {"label_weight": 0.5}),
])  # fmt: skip
def test_a_step_of_every_method_is_its_sum_over_plain_networks(method: str, options: dict[str, object]):
    """Written by hand from the specification: plain networks, torch's own cross-entropy, one weighted sum."""
    x, labels = batch()
    recipe = replace(tiny_recipe(method=method, epochs=12, **options), dropout=0.0)
    learner, teacher = Learner.create(Supernet.create(SPACE, seed=1), recipe), Supernet.create(SPACE, seed=9)
    step = METHOD_STEPS[method]
    plan = method_of(SPACE, recipe, 4).plan(step)
    assert len(plan.shares) > 1 or method == "ofa"
    nets = [learner.supernet.subnet(share.arch).train() for share in plan.shares]
    logits = [net(x) for net in nets]
    with torch.no_grad():
        finished = teacher.subnet(ArchSpec.largest(SPACE)).train()(x)
    is_phased = method in ("ofa", "compofa")
    total, t = torch.zeros(()), recipe.distill_temperature
    for index, output in enumerate(logits):
        hard = F.cross_entropy(output, labels, label_smoothing=0.1)
        first = (finished if is_phased else logits[0]).detach()
        soft = -(F.softmax(first / t, 1) * F.log_softmax(output / t, 1)).sum(1).mean() * t**2
        if is_phased:
            total = total + hard + soft
        elif index == 0:
            total = total + hard
        else:
            total = total + plan.epsilon * (soft + recipe.label_weight * hard if recipe.distill else hard)
    if recipe.gradient_average:
        total = total / len(logits)
    total.backward()
    expected = {name: torch.zeros_like(tensor) for name, tensor in learner.parameters.items()}
    for net in nets:
        for name, parameter in net.named_parameters():
            if ".depthwise.conv." not in name:
                expected[name] += embedded(parameter.grad, expected[name])

    train_step(learner, plan, x, labels, teacher if is_phased else None, step=step)
    for name, tensor in learner.parameters.items():
        if ".depthwise.conv." not in name and "matrix" not in name:
            # What no subnet of the step has got no gradient, so that it is not decayed either.
            found = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            torch.testing.assert_close(found, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_groups_are_batches_of_their_own_for_batchnorm():
    """Four groups of four: the mean of their gradients, and one update of the statistics with the mean of theirs."""
    x, labels = batch()
    full = replace(sandwich_plan(0.0), shares=sandwich_plan(0.0).shares[:1])
    learner = set_up(group_size=4)
    net = learner.supernet.subnet(ArchSpec.largest(SPACE)).train()
    statistics = []
    for part, of in zip(x.split(4), labels.split(4), strict=True):
        fresh = learner.supernet.subnet(ArchSpec.largest(SPACE)).train()
        fresh.load_state_dict({**fresh.state_dict(), **dict(net.named_parameters())})
        (label_loss(fresh(part), of, smoothing=RECIPE.label_smoothing) / 4).backward()
        for parameter, mine in zip(net.parameters(), fresh.parameters(), strict=True):
            parameter.grad = mine.grad.clone() if parameter.grad is None else parameter.grad + mine.grad
        statistics.append({n: t for n, t in fresh.state_dict().items() if n.endswith(("running_mean", "running_var"))})
    train_step(learner, full, x, labels)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(learner.parameters[name].grad, parameter.grad, rtol=1e-3, atol=1e-5, msg=name)
    for name in statistics[0]:
        mean = torch.stack([each[name] for each in statistics]).mean(0)
        torch.testing.assert_close(learner.supernet.tensors[name], mean, rtol=1e-4, atol=1e-5)
    assert int(learner.supernet.tensors["stem.0.norm.num_batches_tracked"]) == 1


def test_the_next_step_after_sorting_is_the_step_without_it_sorted():
    """Weights and momentum both: sort after the step or before it, up to rounding the same tensors."""
    x, labels = batch()
    full = replace(sandwich_plan(0.0), shares=sandwich_plan(0.0).shares[:1])
    before, after = set_up(), set_up()
    for learner in (before, after):
        for _ in range(3):
            train_step(learner, full, x, labels)
    orders = list(channel_orders(SPACE, {name: t.clone() for name, t in before.supernet.tensors.items()}))
    train_step(before, replace(full, sorts_channels=True), x, labels)
    train_step(after, full, x, labels)
    for tensors in (after.supernet.tensors, after.momentum):
        for order in orders:
            reorder(tensors, order)
    for name, tensor in before.parameters.items():
        torch.testing.assert_close(tensor, after.parameters[name], rtol=1e-3, atol=1e-4, msg=name)
        torch.testing.assert_close(before.momentum[name], after.momentum[name], rtol=1e-3, atol=1e-4, msg=name)


def test_momentum_is_forgotten_when_asked_and_only_at_the_switch():
    """One of the ablations of the switch."""
    method = method_of(SPACE, tiny_recipe(reset_momentum=True), 4)
    assert [step for step in range(12) if method.plan(step).resets_momentum] == [4]
    x, labels = batch()
    kept, reset = set_up(momentum=0.9), set_up(momentum=0.9)
    full = replace(sandwich_plan(0.0), shares=sandwich_plan(0.0).shares[:1])
    for learner in (kept, reset):
        train_step(learner, full, x, labels)
    fresh = {name: tensor.clone() for name, tensor in reset.parameters.items()}
    train_step(reset, replace(full, resets_momentum=True), x, labels)
    name = "classifier.bias"  # without weight decay: momentum is the gradient alone, Nesterov adds 0.9 of it once
    gradient = reset.parameters[name].grad
    torch.testing.assert_close(reset.parameters[name], fresh[name] - full.lr * 1.9 * gradient, rtol=1e-4, atol=1e-6)


def test_shares_that_count_for_nothing_change_nothing():
    """What a diagnosis looks at is not trained, not even decayed."""
    x, labels = batch()
    alone, watched = set_up(), set_up()
    full, seen = replace(sandwich_plan(0.0), shares=sandwich_plan(0.0).shares[:1]), []
    train_step(alone, full, x, labels)
    train_step(watched, sandwich_plan(0.0), x, labels, observer=lambda index, *_: seen.append(index))
    assert seen == [0, 1, 2]
    for name, tensor in alone.supernet.tensors.items():
        assert torch.equal(tensor, watched.supernet.tensors[name]), name


def test_either_layout_gives_the_same_step():
    """``layout`` is about speed alone."""
    x, labels = batch()
    weights = []
    for layout in ("channels-first", "channels-last"):
        learner = Learner.create(
            Supernet.create(SPACE, seed=1), RECIPE, memory_format=memory_format(torch.device("cpu"), layout)
        )
        train_step(learner, sandwich_plan(0.5), x, labels)
        weights.append(learner.parameters)
    assert memory_format(torch.device("cpu"), "channels-last") == torch.channels_last
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-5, msg=name)
