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
        epilog="To bring in a supernet that was published for once-for-all: deps-train import-ofa --help\n\n"
        "example: deps-train digits --out runs/digits",
        formatter_class=argparse.RawDescriptionHelpFormatter,
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


def build_import_parser() -> argparse.ArgumentParser:
    """Return the parser of ``deps-train import-ofa``."""
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} import-ofa",
        description="Turn a checkpoint published for once-for-all into a run folder, which deps-extract accepts. "
        "Nothing is downloaded: FILE is one that you have.",
        epilog="example: deps-train import-ofa ofa_mbv3_w1.0.pth --space ofa-mbv3-w1.0 --out runs/ofa",
    )
    add_version_flag(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="a .pth file with a state dict")
    parser.add_argument("--space", metavar="NAME", help="its search space (default: recognised by its shapes)")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run folder (default: runs/NAME OF THE FILE)")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder in --out")
    add_common_flags(parser)
    return parser


def run_import(args: argparse.Namespace) -> Report:
    """Import what the arguments say."""
    require("torch", "compile")
    from deps.supernet import get_space
    from deps.train.import_ofa import import_ofa

    space = get_space(args.space) if args.space is not None else None
    out = args.out if args.out is not None else Path("runs") / args.file.stem
    return import_ofa(args.file, space=space, out=out, overwrite=args.overwrite)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``deps-train``; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["import-ofa"]:
        return run_command(f"{PROGRAM} import-ofa", run_import, build_import_parser().parse_args(words[1:]))
    return run_command(PROGRAM, run, build_parser().parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
