"""``deps-train``: train a once-for-all supernet from a recipe.

Relies on the recipe's fields being documented: each becomes a flag, with its docstring as help.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deps.ground.allocator import keep_freed_memory
from deps.ground.console import Report, Story, add_common_flags, add_version_flag, require, run_command
from deps.ground.errors import RecipeError

if TYPE_CHECKING:
    from deps.train.recipe import Recipe

PROGRAM = "deps-train"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``deps-train``."""
    from deps.train.recipe import field_choices, field_docs, field_kinds
    from deps.train.recipes import recipe_names

    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train a once-for-all supernet with delayed ε-shrinking.",
        epilog="RECIPE-proxyless and RECIPE-resnet50 train the other families; -late at the end of any name lets the\n"
        "subnets join late; deps-train --recipes lists all.\n"
        "To bring in a supernet that was published for once-for-all: deps-train import-ofa --help\n"
        "To set finished runs side by side: deps-train compare --help\n\n"
        "example: deps-train digits --out runs/digits",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version_flag(parser)
    plain = ", ".join(name for name in recipe_names() if "-" not in name)
    parser.add_argument("recipe", metavar="RECIPE", help=f"one of: {plain}; or a relative of theirs, see --recipes")
    parser.add_argument("--recipes", action="store_true", help="list all recipes and exit")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run folder (default: runs/RECIPE)")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out, or show it when it is finished"
    )
    parser.add_argument("--overwrite", action="store_true", help="remove the run in --out first")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    parser.add_argument(
        "--download", action="store_true", help="fetch the files of CIFAR when they are missing; nothing is otherwise"
    )
    parser.add_argument(
        "--workers", type=int, metavar="INT", help="processes that decode pictures (default: one a core but one)"
    )
    parser.add_argument(
        "--scale-lr", action="store_true", help="with another --batch-size, change the learning rate in proportion"
    )
    parser.add_argument(
        "--keep-checkpoints",
        type=int,
        default=2,
        metavar="K",
        help="checkpoints that stay, beside the best supernet (2)",
    )
    parser.add_argument(
        "--diagnose-gradients",
        type=int,
        nargs="?",
        const=10,
        default=0,
        metavar="EVERY",
        help="log norm and cosine of the subnets' gradients against the full model's, every so many steps (10)",
    )
    add_common_flags(parser)

    settings = parser.add_argument_group("settings of the recipe")
    docs, choices = field_docs(), field_choices()
    for name, kind in field_kinds().items():
        if name == "name":
            continue
        flag, text = "--" + name.replace("_", "-"), docs.get(name, "").split("\n")[0].replace("%", "%%")
        if kind is bool:
            settings.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif name in choices:
            settings.add_argument(flag, choices=choices[name], help=text)
        elif kind is tuple:
            settings.add_argument(flag, type=numbers, metavar="N,N", help=text)
        else:
            settings.add_argument(flag, type=kind, metavar=kind.__name__.upper(), help=text)
    return parser


def run(args: argparse.Namespace) -> Report | None:
    """Train what the arguments say."""
    require("torch", "compile")
    from deps.train.loop import TrainConfig, train

    if args.resume and args.overwrite:
        raise RecipeError("--resume continues a run and --overwrite removes it; give one of them")
    if args.workers is not None and args.workers < 0:
        raise RecipeError(f"--workers is {args.workers}; expected 0 (decode in the same process) or more")
    # Of the processes that torchrun starts the first one tells.
    story = Story.from_args(args) if os.environ.get("RANK", "0") == "0" else Story(quiet=True)
    recipe = resolved(args, story)
    out = args.out if args.out is not None else Path("runs") / recipe.name
    config = TrainConfig(
        recipe=recipe,
        out=out,
        resume=args.resume,
        overwrite=args.overwrite,
        device=args.device,
        download=args.download,
        workers=args.workers,
        keep_checkpoints=args.keep_checkpoints,
        diagnose_gradients=args.diagnose_gradients,
    )
    return train(config, story)


def resolved(args: argparse.Namespace, story: Story) -> Recipe:
    """Return the recipe with what the arguments change, and with what follows from that."""
    from deps.train.finetune import finetuned
    from deps.train.recipe import field_kinds, override
    from deps.train.recipes import get_recipe

    recipe = get_recipe(args.recipe)
    changes = {name: getattr(args, name) for name in field_kinds() if getattr(args, name, None) is not None}
    if "batch_size" in changes and "lr" not in changes and changes["batch_size"] != recipe.batch_size:
        factor = changes["batch_size"] / recipe.batch_size
        if args.scale_lr:
            changes["lr"] = recipe.lr * factor
        story.say(
            f"the recipe's learning rate of {recipe.lr:g} is for batches of {recipe.batch_size}; "
            + (f"scaled to {changes['lr']:g}" if args.scale_lr else "it stays; --scale-lr changes it in proportion")
        )
    recipe = override(recipe, changes)
    return finetuned(recipe, set(changes)) if recipe.finetune_from else recipe


@dataclass(frozen=True, slots=True)
class RecipeList:
    """What ``--recipes`` answers."""

    rows: tuple[tuple[str, str, int, str], ...]
    """Name, space, epochs, and what it is."""

    def to_text(self) -> str:
        """Return the table that a person reads."""
        longest = max(len(name) for name, *_ in self.rows)
        lines = [f"{name:{longest}}  {what} ({space}, {epochs} epochs)" for name, space, epochs, what in self.rows]
        return "\n".join([*lines, f"{'NAME-late':{longest}}  any of them, whose subnets join late and learn fast"])

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        names = ("name", "space", "epochs", "what")
        return {"recipes": [dict(zip(names, row, strict=True)) for row in self.rows]}


def list_recipes(_args: argparse.Namespace) -> RecipeList:
    """Return all recipes."""
    from deps.train.recipes import get_recipe, recipe_docs

    recipes = [(get_recipe(name), doc) for name, doc in recipe_docs().items()]
    return RecipeList(tuple((r.name, r.search_space().name, r.epochs, doc) for r, doc in recipes))


def numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a list with commas; whole ones as int.

    Raises:
        ValueError: it is no such list, which argparse turns into wrong usage.
    """
    return tuple(int(part) if part.strip().lstrip("-").isdigit() else float(part) for part in text.split(",") if part)


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


def build_compare_parser() -> argparse.ArgumentParser:
    """Return the parser of ``deps-train compare``."""
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} compare",
        description="Show several finished runs in one table: accuracy of their subnets, and what their training cost.",
        epilog="example: deps-train compare runs/deps runs/bignas --out comparison",
    )
    add_version_flag(parser)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write compare.png, compare.svg and compare.json")
    add_common_flags(parser)
    return parser


def run_compare(args: argparse.Namespace) -> Report:
    """Compare what the arguments say."""
    require("torch", "compile")
    from deps.train.compare import compare

    return compare(args.runs, Story.from_args(args), out=args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``deps-train``; return its exit code."""
    if argv is None:
        # A process of its own, in which every step wants the memory that the last one had.
        keep_freed_memory()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["import-ofa"]:
        return run_command(f"{PROGRAM} import-ofa", run_import, build_import_parser().parse_args(words[1:]))
    if "--recipes" in words:
        return run_command(PROGRAM, list_recipes, argparse.Namespace(json="--json" in words, verbose=False))
    if words[:1] == ["compare"]:
        return run_command(f"{PROGRAM} compare", run_compare, build_compare_parser().parse_args(words[1:]))
    return run_command(PROGRAM, run, build_parser().parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
