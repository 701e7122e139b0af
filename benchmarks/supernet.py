"""How fast the supernet is: taking a subnet, loading a checkpoint, training inside it, and architectures in bulk.

    python benchmarks/supernet.py                       everything, into benchmarks/results/supernet.json
    python benchmarks/supernet.py --only training --device cuda --batch 128

Claims: a MobileNetV3 subnet in at most 50 ms; a published w1.2 checkpoint in at most 1 s; forward and backward of a
subnet inside the supernet in at most 1.05 times the same plain network's; a million architectures in a second.
Compared programs alternate, each pair at the same moment of a machine that does other things too; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.func import functional_call
from torch.nn import functional as F

from deps.ground.files import write_json
from deps.ground.provenance import provenance
from deps.supernet import ArchSpec, SearchSpace, Supernet, get_space, slice_weights
from deps.supernet.network import network, skeleton
from deps.supernet.published import published_state
from deps.supernet.sampling import crossover, mutate, one_hot, random_archs, random_genes
from deps.supernet.supernet import is_statistic

RESULT = Path(__file__).parent / "results" / "supernet.json"


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def summary(times: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(times, n=4)
    return {"median_ms": 1e3 * middle, "quartile_1_ms": 1e3 * low, "quartile_3_ms": 1e3 * high, "runs": len(times)}


def subnets(count: int) -> dict[str, Any]:
    """Time ``Supernet.subnet`` for random architectures, none of which was met before."""
    result = {}
    for name in ("ofa-mbv3-w1.0", "ofa-mbv3-w1.2", "ofa-proxyless-w1.3", "ofa-resnet50"):
        space = get_space(name)
        supernet = Supernet.create(space)
        archs = random_archs(space, count, np.random.default_rng(0))
        first = seconds(lambda supernet=supernet, arch=archs[0]: supernet.subnet(arch))  # builds the first blocks
        times = [seconds(lambda s=supernet, arch=arch: s.subnet(arch)) for arch in archs[1:]]
        result[name] = {**summary(times), "first_ms": 1e3 * first}
    return result


def loading(count: int) -> dict[str, Any]:
    """Time ``Supernet.load`` of a published file and of our own folder; both lie in the page cache."""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("ofa-mbv3-w1.2", "ofa-resnet50"):
            supernet = Supernet.create(get_space(name))
            file, run = Path(folder) / f"{name}.pth", Path(folder) / name
            torch.save({"state_dict": published_state(supernet, is_old=True)}, file)
            supernet.save(run)
            result[name] = {
                "published": summary([seconds(lambda file=file: Supernet.load(file)) for _ in range(count)]),
                "own": summary([seconds(lambda run=run: Supernet.load(run)) for _ in range(count)]),
            }
    return result


def training(rounds: int, batch: int, resolution: int, device: str) -> dict[str, Any]:
    """Time forward and backward of a subnet inside the supernet and of the same plain network, in turns."""
    result: dict[str, Any] = {
        "batch": batch,
        "resolution": resolution,
        "device": device,
        "threads": torch.get_num_threads(),
    }
    for name in ("ofa-mbv3-w1.0", "ofa-proxyless-w1.3", "ofa-resnet50"):
        space = get_space(name)
        random = random_archs(space, 1, np.random.default_rng(1))[0].to_dict()
        archs = {
            "largest": ArchSpec.largest(space, resolution),
            "smallest": ArchSpec.smallest(space, resolution),
            "random": ArchSpec.from_dict(space, {**random, "resolution": resolution}),
        }
        result[name] = {which: one_arch(space, arch, rounds, batch, device) for which, arch in archs.items()}
    return result


def one_arch(space: SearchSpace, arch: ArchSpec, rounds: int, batch: int, device: str) -> dict[str, Any]:
    supernet = Supernet.create(space).to(device=device)
    parameters = {name: tensor.requires_grad_() for name, tensor in supernet.parameters.items()}
    module = skeleton(space, arch, is_training=True)
    plain = network(space, arch).to(device).train()
    x_NCHW = torch.randn(batch, space.in_channels, arch.resolution, arch.resolution, device=device)
    labels_N = torch.zeros(batch, dtype=torch.long, device=device)

    def inside() -> None:
        for tensor in parameters.values():
            tensor.grad = None
        weights = slice_weights(space, supernet.tensors, arch)
        weights = {name: w.clone() if is_statistic(name) else w for name, w in weights.items()}
        torch.autograd.backward(F.cross_entropy(functional_call(module, weights, (x_NCHW,), strict=True), labels_N))
        synchronize(device)

    def alone() -> None:
        plain.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(plain(x_NCHW), labels_N))
        synchronize(device)

    def once(run: Callable[[], None]) -> tuple[float, float]:
        """Return wall seconds, and the processor's seconds, which other programs on the machine disturb less."""
        busy = time.process_time()
        return seconds(run), time.process_time() - busy

    inside()
    alone()
    pairs = []
    for turn in range(rounds):
        # Whoever comes second finds warmer caches, so they change places.
        if turn % 2:
            pairs.append((once(inside), once(alone)))
        else:
            second = once(alone)
            pairs.append((once(inside), second))
    result: dict[str, Any] = {"rounds": rounds}
    for which, clock in enumerate(("wall", "processor")):
        times = [(one[which], other[which]) for one, other in pairs]
        inside_ms, plain_ms = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
        ratios = [one / other for one, other in times]
        result[clock] = {
            "inside_ms": inside_ms,
            "plain_ms": plain_ms,
            "ratio_of_medians": inside_ms / plain_ms,
            "quartiles_of_ratios": [round(quartile, 3) for quartile in statistics.quantiles(ratios, n=4)],
        }
    return result


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def bulk(count: int) -> dict[str, Any]:
    """Time what a search does to a population."""
    space, rng = get_space("ofa-mbv3-w1.0"), np.random.default_rng(0)
    genes = random_genes(space, count, rng, uniform="subnets")
    steps: dict[str, Callable[[], Any]] = {
        "random": lambda: random_genes(space, count, rng, uniform="subnets"),
        "mutate": lambda: mutate(space, genes, rng),
        "crossover": lambda: crossover(space, genes, genes[::-1], rng),
        "one_hot": lambda: one_hot(space, genes),
    }
    return {"architectures": count} | {name: summary([seconds(run) for _ in range(5)]) for name, run in steps.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("subnets", "loading", "training", "bulk"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of training on the CPU")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    parts: dict[str, Callable[[], Any]] = {
        # These move memory and little else; threads that wait for one another would be measured on a busy machine.
        "subnets": lambda: subnets(50),
        "loading": lambda: loading(9),
        "bulk": lambda: bulk(1_000_000),
        "training": lambda: training(args.rounds, args.batch, args.resolution, args.device),
    }
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name, run in parts.items():
        if args.only in (None, name):
            torch.set_num_threads(args.threads if name == "training" else 1)
            result[name] = {
                "threads": torch.get_num_threads(),
                "load_before": os.getloadavg()[0],
                **run(),
                "where": provenance(),
            }
            print(json.dumps({name: {key: value for key, value in result[name].items() if key != "where"}}, indent=1))
            write_json(args.out, result)


if __name__ == "__main__":
    main()
