"""``deps-train``: train a once-for-all supernet from a recipe.

Relies on the recipe's fields being documented: each becomes a flag, with its docstring as help.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deps.ground.console import Report, Story, add_common_flags, add_version_flag, require, run_command
from deps.ground.errors import RecipeError

PROGRAM = "deps-train"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``deps-train``."""
    from deps.train.recipe import METHODS, field_docs, field_kinds
    from deps.train.recipes import recipe_names

    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train a once-for-all supernet with delayed ε-shrinking.",
        epilog="example: deps-train digits --out runs/digits",
    )
    add_version_flag(parser)
    parser.add_argument("recipe", metavar="RECIPE", help=f"one of: {', '.join(recipe_names())}")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run folder (default: runs/RECIPE)")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out, or show it when it is finished"
    )
    parser.add_argument("--overwrite", action="store_true", help="remove the run in --out first")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    add_common_flags(parser)

    settings = parser.add_argument_group("settings of the recipe")
    docs = field_docs()
    for name, kind in field_kinds().items():
        if name == "name":
            continue
        flag, text = "--" + name.replace("_", "-"), docs.get(name, "").split("\n")[0].replace("%", "%%")
        if kind is bool:
            settings.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif name == "method":
            settings.add_argument(flag, choices=METHODS, help=text)
        else:
            settings.add_argument(flag, type=kind, metavar=kind.__name__.upper(), help=text)
    return parser


def run(args: argparse.Namespace) -> Report:
    """Train what the arguments say."""
    require("torch", "compile")
    from deps.train.loop import TrainConfig, train
    from deps.train.recipe import Recipe, override
    from deps.train.recipes import get_recipe

    if args.resume and args.overwrite:
        raise RecipeError("--resume continues a run and --overwrite removes it; give one of them")
    recipe = get_recipe(args.recipe)
    names = [field.name for field in dataclasses.fields(Recipe) if field.name != "name"]
    changes: dict[str, Any] = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    recipe = override(recipe, changes)
    out = args.out if args.out is not None else Path("runs") / recipe.name
    config = TrainConfig(recipe=recipe, out=out, resume=args.resume, overwrite=args.overwrite, device=args.device)
    return train(config, Story.from_args(args))


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``deps-train``; return its exit code."""
    return run_command(PROGRAM, run, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
