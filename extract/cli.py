"""``deps-extract``: find the most accurate subnet within a budget, compile it, check it, and write a bundle.

Relies on ``deps.ground.console`` for the manners of a command; everything heavy is imported after ``--help``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deps.extract import bundle_cli
from deps.ground.console import Report, Story, add_common_flags, add_version_flag, require, run_command

EXAMPLE = """with a bundle that stands already:
  deps-extract verify BUNDLE [--supernet RUN]
  deps-extract triton BUNDLE DIR [--uint8]

example:
  deps-extract --flops 300M --target jetson
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="deps-extract",
        description="Find the most accurate subnet of a trained supernet within a budget, export it as ONNX in every "
        "precision, check each file against the network, and write a bundle for a target. "
        "Any combination of budgets may be given; without one, the most accurate subnet is taken.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--supernet", type=Path, metavar="RUN", help="run folder (default: the newest in runs/)")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="pictures in train/CLASS and val/CLASS (default: those of the run)"
    )
    parser.add_argument(
        "--target", required=True, metavar="NAME,...", help="what to compile for: cpu, jetson, rtx, ...; a bundle each"
    )
    parser.add_argument("--shared", action="store_true", help="one subnet that fits all targets, not one for each")
    parser.add_argument(
        "--family", type=int, default=1, metavar="N", help="put N subnets along the Pareto front into each bundle"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="BUNDLE",
        help="where to write (default: bundles/TARGET-BUDGET); of several targets, the folder of their bundles",
    )

    parser.add_argument("--triton", type=Path, metavar="DIR", help="also write a Triton model repository there")

    budget = parser.add_argument_group("budget, for one image")
    budget.add_argument("--flops", metavar="N", help="most multiply-adds, e.g. 300M")
    budget.add_argument(
        "--latency", metavar="TIME", help="most time by the target's latency table, e.g. 0.2ms, or cpu=5ms,rtx=1ms"
    )
    budget.add_argument("--params", metavar="N", help="most parameters, e.g. 4M")
    budget.add_argument("--size", metavar="BYTES", help="most bytes of the weights as fp32, e.g. 4MB")
    budget.add_argument(
        "--memory", metavar="BYTES", help="most bytes of weights and activations at once as fp32, e.g. 2MB"
    )

    search = parser.add_argument_group("search and checks")
    search.add_argument(
        "--max-drop", type=float, default=1.0, metavar="POINTS", help="accuracy a precision may lose (default: 1.0)"
    )
    search.add_argument(
        "--samples", type=int, default=160, metavar="N", help="most subnets measured for the predictor (default: 160)"
    )
    search.add_argument(
        "--predictor", type=Path, metavar="FILE", help="once-for-all's ofa_acc_predictor.pth, instead of measuring"
    )
    search.add_argument(
        "--objective",
        choices=("accuracy", "flops"),
        default="accuracy",
        help="flops takes the largest subnet within the budget and needs no images (default: accuracy)",
    )
    search.add_argument("--device", default="auto", help="where subnets are measured: cpu, cuda, or auto (default)")
    search.add_argument(
        "--finetune", type=int, default=0, metavar="EPOCHS", help="train the chosen subnet alone, kept if better"
    )
    search.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    search.add_argument("--targets", type=Path, metavar="FILE", help="TOML file with targets of your own")
    add_common_flags(parser)
    add_version_flag(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``deps-extract``; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] and words[0] in bundle_cli.COMMANDS:
        return bundle_cli.main(words)
    return run_command("deps-extract", _run, build_parser().parse_args(words))


def _run(args: argparse.Namespace) -> Report | None:
    for module in ("torch", "onnx", "safetensors"):
        require(module, "compile")
    from deps.extract.budget import AXES, Budget, parse_latencies
    from deps.extract.config import ExtractConfig
    from deps.extract.pipeline import extract

    counted = Budget.parse({axis.key: getattr(args, axis.key) for axis in AXES if axis.key != "latency"})
    latency_ms, latencies_ms = parse_latencies(args.latency)
    config = ExtractConfig(
        targets=tuple(name.strip() for name in args.target.split(",") if name.strip()),
        budget=replace(counted, max_latency_ms=latency_ms),
        latency_ms=latencies_ms,
        is_shared=args.shared,
        family=args.family,
        supernet=args.supernet,
        data=args.data,
        out=args.out,
        targets_file=args.targets,
        max_drop=args.max_drop,
        samples=args.samples,
        predictor=args.predictor,
        objective=args.objective,
        device=args.device,
        seed=args.seed,
        triton=args.triton,
        finetune=args.finetune,
    )
    extraction = extract(config, Story.from_args(args))
    # Of several processes that torchrun started, the first one answers.
    return extraction if extraction.reports else None


if __name__ == "__main__":
    sys.exit(main())
