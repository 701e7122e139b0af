"""``deps-serve``: serve a bundle, classify pictures with it, build its engines, measure it.

Relies on ``deps.ground.console`` for the manners of a command; everything heavy is imported after ``--help``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deps.ground.console import Report, Story, add_common_flags, add_version_flag, require, run_command
from deps.ground.errors import UnitError
from deps.ground.units import parse_bytes
from deps.serve.logs import LEVELS

if TYPE_CHECKING:
    from deps.serve.access import Access
    from deps.serve.grpc_front import GrpcFront
    from deps.serve.repository import Repository
    from deps.serve.service import ServeOptions

DEFAULT_PORT = 8000


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; write 0 to 65535, 0 for a free one")
    return int(text)


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except UnitError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, such as 1 or 0.5")
    return value


def _milliseconds(text: str) -> float:
    try:
        value = float(text.removesuffix("ms"))
    except ValueError:
        value = 0.0
    if not 0 < value <= 3_600_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of milliseconds above 0, such as 100 or 20ms")
    return value


def _pause(text: str) -> float:
    return 0.0 if text == "0" else _seconds(text)


def _batches(text: str) -> list[int]:
    return [_at_least(1)(part.strip()) for part in text.split(",")]


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that deps-extract wrote")
    _add_targets(parser)


def _add_targets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", help="whose preferences count (default: the bundle's own)")
    parser.add_argument("--targets", type=Path, metavar="FILE", help="TOML file with targets of your own")


def _add_engine_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subnet", metavar="NAME", help="the one subnet to run (default: all, by deadline)")
    parser.add_argument(
        "--engine", choices=("auto", "onnxruntime", "tensorrt"), default="auto", help="what runs it (default: auto)"
    )
    parser.add_argument("--precision", metavar="P", help="insist on fp32, fp16, trt-int8 or cpu-int8")
    parser.add_argument(
        "--threads", type=_at_least(1), metavar="N", help="threads of ONNX Runtime (default: cores - 1)"
    )
    parser.add_argument(
        "--max-batch", type=_at_least(1), metavar="N", help="most images at once (default: the target's)"
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="deps-serve",
        description="Serve a bundle over the Open Inference Protocol, or use it without a server.",
        epilog="example: deps-serve bundles/digits --port 8000",
        usage="deps-serve [-h] [--version] BUNDLE … [options]\n       deps-serve {serve,run,build,bench} BUNDLE …",
    )
    add_version_flag(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="answer requests over HTTP (what deps-serve BUNDLE does)",
        description="Answer requests over HTTP until told to stop.",
        epilog="example: deps-serve bundles/digits --port 0",
    )
    serve.add_argument("bundles", type=Path, nargs="*", metavar="BUNDLE", help="folder that deps-extract wrote")
    serve.add_argument("--repository", type=Path, metavar="DIR", help="folder of bundles to serve as well")
    serve.add_argument(
        "--load", action="append", metavar="NAME", help="model of --repository to load at the start (default: all)"
    )
    serve.add_argument(
        "--watch",
        type=_pause,
        default=1.0,
        metavar="S",
        help="look for replaced bundles every S seconds, 0 for never (default: 1)",
    )
    _add_targets(serve)
    _add_engine_choice(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=_port, default=DEFAULT_PORT, help=f"0 takes a free one (default: {DEFAULT_PORT})")
    serve.add_argument("--grpc-port", type=_port, metavar="PORT", help="answer gRPC there as well; 0 takes a free one")
    serve.add_argument("--token", help="what requests must show (better: --token-file, or $DEPS_SERVE_TOKEN)")
    serve.add_argument("--token-file", type=Path, metavar="FILE", help="file that holds the token")
    serve.add_argument("--log-format", choices=("text", "json"), default="text", help="of the log (default: text)")
    serve.add_argument("--log-level", choices=LEVELS, help="least that is logged (default: info)")
    serve.add_argument("--max-body", type=_size, metavar="SIZE", help="largest request (default: 32MiB)")
    serve.add_argument("--max-queue", type=_at_least(1), metavar="N", help="most images that may wait (default: 256)")
    serve.add_argument(
        "--deadline", type=_milliseconds, metavar="MS", help="deadline of requests that bring none (default: none)"
    )
    serve.add_argument("--workers", type=_at_least(1), default=1, metavar="N", help="engine threads (default: 1)")
    serve.set_defaults(run=_serve)

    run = commands.add_parser(
        "run",
        help="classify pictures without a server",
        description="Classify pictures without a server.",
        epilog="example: deps-serve run bundles/digits seven.png --top 3",
    )
    _add_bundle(run)
    run.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="JPEG or PNG file")
    _add_engine_choice(run)
    run.add_argument("--top", type=_at_least(1), default=5, metavar="K", help="classes to name (default: 5)")
    run.set_defaults(run=_run)

    build = commands.add_parser(
        "build",
        help="build TensorRT engines for this device",
        description="Build the TensorRT engines that the bundle lacks on this device; what is there is kept.",
        epilog="example: deps-serve build bundles/jetson",
    )
    _add_bundle(build)
    build.add_argument("--subnet", action="append", metavar="NAME", help="subnet to build, repeatable (default: all)")
    build.add_argument("--precision", action="append", metavar="P", help="precision, repeatable (default: the best)")
    build.add_argument("--max-batch", type=_at_least(1), metavar="N", help="largest batch (default: the target's)")
    build.add_argument(
        "--level", type=int, choices=range(6), default=3, help="how long to look for kernels (default: 3)"
    )
    build.set_defaults(run=_build)

    bench = commands.add_parser(
        "bench",
        help="measure latency and throughput on this device",
        description="Measure latency and throughput of every file of the bundle that can run here.",
        epilog="example: deps-serve bench bundles/digits --batches 1,8",
    )
    _add_bundle(bench)
    bench.add_argument("--subnet", action="append", metavar="NAME", help="subnet to measure, repeatable (default: all)")
    bench.add_argument(
        "--batches", type=_batches, default=[1, 2, 4, 8], metavar="N,N", help="batch sizes (default: 1,2,4,8)"
    )
    bench.add_argument(
        "--seconds", type=_seconds, default=1.0, metavar="S", help="time for each batch size (default: 1)"
    )
    bench.add_argument("--threads", type=_at_least(1), metavar="N", help="threads of ONNX Runtime (default: cores - 1)")
    bench.add_argument(
        "--memory", action="store_true", help="also load each engine in a fresh process and tell the memory it needs"
    )
    bench.add_argument(
        "--write", action="store_true", help="write the medians into the bundle, for the server's choice by deadline"
    )
    bench.set_defaults(run=_bench)

    for command in commands.choices.values():
        add_common_flags(command)
    return parser


def _options(args: argparse.Namespace) -> ServeOptions:
    from deps.serve.scheduler import DEFAULT_QUEUE_IMAGES
    from deps.serve.service import ServeOptions

    return ServeOptions(
        subnet=args.subnet,
        target=args.target,
        targets_file=args.targets,
        backend=args.engine,
        precision=args.precision,
        num_threads=args.threads,
        max_batch=args.max_batch,
        max_queue_images=getattr(args, "max_queue", None) or DEFAULT_QUEUE_IMAGES,
        deadline_s=None if getattr(args, "deadline", None) is None else args.deadline / 1e3,
        workers=getattr(args, "workers", 1),
    )


def _serve(args: argparse.Namespace) -> Report | None:
    from deps.ground.errors import BundleError
    from deps.serve.access import Access, read_token
    from deps.serve.body import DEFAULT_MAX_BODY_BYTES
    from deps.serve.front.acceptor import Acceptor
    from deps.serve.front.limits import Limits
    from deps.serve.http import create_app
    from deps.serve.logs import LoggedStory, set_up_logs
    from deps.serve.repository import Repository
    from deps.serve.server import is_loopback, listen, run_server, url_of

    story = (LoggedStory if args.log_format == "json" else Story).from_args(args)
    set_up_logs(args.log_level or ("warning" if args.quiet else "info"), args.log_format)
    if not args.bundles and args.repository is None:
        raise BundleError("there is nothing to serve; expected a BUNDLE or --repository DIR; name one")
    is_open = not is_loopback(args.host)
    token = read_token(args.token, args.token_file)
    access = Access(token=token, may_control=token is not None or not is_open)
    max_body_bytes = args.max_body or DEFAULT_MAX_BODY_BYTES
    with listen(args.host, args.port) as bound:
        grpc_address = _grpc_address(args)
        repository = Repository.open(args.bundles, root=args.repository, load=args.load, options=_options(args))
        fronts = _grpc_fronts(grpc_address, repository, access, max_body_bytes)
        app = create_app(
            repository, access=access, max_body_bytes=max_body_bytes, watch_s=args.watch or None, beside=fronts
        )

        def announce() -> None:
            if is_open and token is None:
                story.warn(
                    f"anyone who reaches {args.host} can use this server; expected --token-file FILE, 127.0.0.1, "
                    "or a fence around it"
                )
            facts: dict[str, Any] = {"url": url_of(bound), **_told(repository, story)}
            for model in facts["models"]:
                story.say(f"serving at {url_of(bound)}/v2/models/{model} (Ctrl-C stops)")
            if fronts:
                facts["grpc"] = f"{args.host}:{fronts[0].port}"
                story.say(f"serving gRPC at {facts['grpc']}")
            if args.json:
                print(json.dumps(facts), flush=True)

        acceptor = Acceptor(app, Limits(max_body_bytes=max_body_bytes), app.screen, app.handler_of)
        run_server(acceptor, repository, bound, announce)
        story.say("stopped; every accepted request was answered")
    return None


def _grpc_address(args: argparse.Namespace) -> str | None:
    """Return where gRPC shall listen, found free: better told now than when the models are loaded."""
    if args.grpc_port is None:
        return None
    require("grpc", "grpc")
    require("google.protobuf", "grpc")
    from deps.serve.server import listen

    with listen(args.host, args.grpc_port) as bound:
        host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _grpc_fronts(address: str | None, repository: Repository, access: Access, max_body_bytes: int) -> list[GrpcFront]:
    if address is None:
        return []
    from deps.serve.grpc_front import GrpcFront

    return [GrpcFront(repository, address, access=access, max_body_bytes=max_body_bytes)]


def _told(repository: Repository, story: Story) -> dict[str, Any]:
    """Say what runs each model, and return the facts of the first, with the names of all."""
    facts: dict[str, Any] = {}
    models = []
    for model in repository.models.values():
        if model.loaded is None:
            continue
        service = model.loaded.service
        for member in service.subnets:
            story.say(f"{model.name}, subnet {member.name}, on {member.choice}")
        facts = facts or {"model": model.name, **service.by.parameters(), "reason": service.choice.reason}
        models.append(model.name)
    return {**facts, "models": models}


def _run(args: argparse.Namespace) -> Report:
    from deps.serve.run import run_bundle

    return run_bundle(args.bundle, args.images, _options(args), Story.from_args(args), top=args.top)


def _build(args: argparse.Namespace) -> Report:
    from deps.serve.build import build_bundle
    from deps.serve.bundle import read_bundle
    from deps.serve.targets import get_target

    bundle = read_bundle(args.bundle)
    return build_bundle(
        bundle,
        get_target(args.target or bundle.manifest.target, args.targets),
        Story.from_args(args),
        subnets=[bundle.manifest.subnet(name) for name in args.subnet or ()],
        precisions=args.precision,
        max_batch=args.max_batch,
        optimization_level=args.level,
    )


def _bench(args: argparse.Namespace) -> Report:
    from deps.serve.bench import bench_bundle, write_times
    from deps.serve.bundle import read_bundle
    from deps.serve.targets import get_target

    bundle = read_bundle(args.bundle)
    names = args.subnet or [subnet.name for subnet in bundle.manifest.subnets]
    story, target = Story.from_args(args), get_target(args.target or bundle.manifest.target, args.targets)
    report = bench_bundle(
        bundle,
        target,
        story,
        subnets=[bundle.manifest.subnet(name) for name in names],
        batches=args.batches,
        seconds=args.seconds,
        num_threads=args.threads,
        with_memory=args.memory,
    )
    if args.write:
        write_times(bundle, target, report.timings)
        story.say(f"wrote {len(report.timings)} medians into {bundle.folder}/manifest.json")
    return report


COMMANDS = ("serve", "run", "build", "bench")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; a first word that is no command is a bundle to serve."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] not in (*COMMANDS, "-h", "--help", "--version"):
        words.insert(0, "serve")
    args = build_parser().parse_args(words)
    return run_command("deps-serve", args.run, args)


if __name__ == "__main__":
    sys.exit(main())
