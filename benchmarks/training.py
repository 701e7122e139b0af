"""What a sandwich step costs, beside the same plain networks trained alone at the same batch.

    python benchmarks/training.py                                  digits and CIFAR-size, into results/training.json
    python benchmarks/training.py --spaces ofa-mbv3-w1.0 --device cuda --batch 128
    python benchmarks/training.py --spaces cifar-mbv3-narrow --batch 128 --layout channels-last

Claim: a step over several subnets takes at most 1.05 times the sum of the steps of plain networks of the same
architectures, each with its own optimizer. Compared programs alternate, step by step, so both meet the same moments of
a machine that does other things too; medians are compared. ``outside`` is the share of the training loop's time that is
neither in a forward nor in a backward pass: data, slicing, gathering gradients, the optimizer. ``stock_depthwise`` is
the plain networks' time with torch's own gradient of depthwise filters.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deps.ground.files import write_json
from deps.ground.provenance import provenance
from deps.supernet import Supernet, get_space
from deps.supernet.depthwise import DepthwiseConv2d
from deps.supernet.network import network
from deps.train import step as step_module
from deps.train.device import autocast_dtype, memory_format
from deps.train.methods import StepPlan, method_of
from deps.train.recipes import get_recipe
from deps.train.step import Learner, train_step

RESULT = Path(__file__).parent / "results" / "training.json"
BATCHES = {"digits": 64, "cifar-mbv3": 16}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


class Alone:
    """A plain network of one architecture, with an optimizer of its own."""

    def __init__(self, space: Any, arch: Any, learner: Learner, device: torch.device) -> None:
        self.module = network(space, arch).to(device).to(memory_format=learner.memory_format).train()
        options = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4, "fused": True}
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.01, **options)  # type: ignore[arg-type]
        self.autocast = learner.autocast

    def step(self, x_NCHW: Tensor, labels_N: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x_NCHW.device.type, self.autocast, enabled=self.autocast is not None):
            logits_NV = self.module(x_NCHW).float()
        torch.autograd.backward(F.cross_entropy(logits_NV, labels_N, label_smoothing=0.1))
        self.optimizer.step()


@contextmanager
def stock_depthwise() -> Iterator[None]:
    """Let depthwise layers use torch's own gradient."""
    ours = DepthwiseConv2d.forward
    DepthwiseConv2d.forward = nn.Conv2d.forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        DepthwiseConv2d.forward = ours  # type: ignore[method-assign]


@contextmanager
def passes_timed(device: torch.device) -> Iterator[list[float]]:
    """Collect the seconds of every forward and backward pass of a training step."""
    times: list[float] = []
    module: Any = step_module
    call, grad = module.call_with, torch.autograd.grad

    def timed(run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **options: Any) -> Any:
            answer: list[Any] = []
            times.append(seconds(lambda: answer.append(run(*args, **options)), device))
            return answer[0]

        return wrapper

    module.call_with, torch.autograd.grad = timed(call), timed(grad)
    try:
        yield times
    finally:
        module.call_with, torch.autograd.grad = call, grad


def sandwich(
    name: str, batch: int, rounds: int, device: torch.device, seconds_limit: float, layout: str
) -> dict[str, Any]:
    space = get_space(name)
    recipe = replace(get_recipe("digits"), space=name, batch_size=batch, warmup_fraction=0.0, epsilon_ramp=0.0)
    learner = Learner.create(
        Supernet.create(space).to(device),
        recipe,
        autocast=autocast_dtype("auto", device),
        memory_format=memory_format(device, layout),
    )
    method = method_of(space, recipe, 100)
    side = space.resolutions[-1]
    x_NCHW = torch.randn(batch, space.in_channels, side, side, device=device)
    x_NCHW = x_NCHW.contiguous(memory_format=learner.memory_format)
    labels_N = torch.randint(0, space.num_classes, (batch,), device=device)

    def inside(plan: StepPlan) -> float:
        return seconds(lambda: train_step(learner, plan, x_NCHW, labels_N), device)

    pairs: list[tuple[float, float]] = []
    stock: list[float] = []
    outside: list[float] = []
    began = time.monotonic()
    for number in range(rounds):
        plan = method.plan(number)
        nets = [Alone(space, share.arch, learner, device) for share in plan.shares]
        for net in nets:  # what is met for the first time is built, and is slower
            net.step(x_NCHW, labels_N)

        def alone(nets: list[Alone] = nets) -> float:
            return sum(seconds(functools.partial(net.step, x_NCHW, labels_N), device) for net in nets)

        if number == 0:
            inside(plan)
        # Random subnets are new to the supernet in every step, as they are in training.
        pairs.append((inside(plan), alone()) if number % 2 else tuple(reversed((alone(), inside(plan)))))  # type: ignore[arg-type]
        if number < 3 and device.type == "cpu":
            with stock_depthwise():
                stock.append(alone())
        with passes_timed(device) as times:
            whole = inside(method.plan(rounds + number))
        outside.append(1 - sum(times) / whole)
        if number >= 4 and time.monotonic() - began > seconds_limit:
            break
    inside_ms, alone_ms = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
    result = {
        "batch": batch,
        "subnets_a_step": len(method.plan(0).shares),
        "rounds": len(pairs),
        "precision": str(learner.autocast or torch.float32),
        "sandwich_ms": inside_ms,
        "plain_sum_ms": alone_ms,
        "ratio_of_medians": inside_ms / alone_ms,
        "quartiles_of_ratios": [round(q, 3) for q in statistics.quantiles([a / b for a, b in pairs], n=4)],
        "images_per_second": batch / (inside_ms / 1e3),
        "outside": statistics.median(outside),
    }
    return result | ({"stock_depthwise_sum_ms": 1e3 * statistics.median(stock)} if stock else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", default=",".join(BATCHES), help="names, with commas")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layout", default="auto", choices=("auto", "channels-first", "channels-last"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=100, help="for one space, about")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.spaces.split(","):
        load = os.getloadavg()[0]
        batch = args.batch or BATCHES.get(name, 32)
        measured = sandwich(name, batch, args.rounds, torch.device(args.device), args.seconds, args.layout)
        key = name if args.device == "cpu" else f"{name} on {args.device}"
        key += "" if args.layout == "auto" else f", {args.layout}"
        result[key] = {"threads": args.threads, "load_before": load, **measured, "where": provenance()}
        print(json.dumps({key: {k: v for k, v in result[key].items() if k != "where"}}, indent=1))
        write_json(args.out, result)


if __name__ == "__main__":
    main()
