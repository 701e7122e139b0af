"""How wrong is a latency table of a processor? Held-out random and corner subnets of ``ofa-mbv3-w1.2``, ONNX Runtime.

    python benchmarks/latency_table.py benchmarks/results/latency_table.json [--slots N] [--spin]

Three sessions of each of four configurations, each with its own anchors and held-out nets and in a process of its own.
A session is one *slot* of about a minute. What is finished is kept: a second call measures only what is missing, and
``--slots N`` stops after N of them. The whole takes about thirteen minutes, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deps.ground.console import Story
from deps.ground.files import read_json, write_json
from deps.ground.provenance import provenance
from deps.profile.backends import open_backend
from deps.profile.backends.base import Conditions
from deps.profile.fingerprint import state
from deps.profile.kit import write_kit
from deps.profile.latency import LatencyTable
from deps.profile.measure import MeasureSettings
from deps.profile.table import measure_kit
from deps.serve.targets import get_target
from deps.supernet import get_space

SPACE = "ofa-mbv3-w1.2"
CONFIGURATIONS = ((224, 1, 0.010), (128, 1, 0.015), (224, 2, 0.020), (128, 2, 0.030))
"""Pixels, threads, and the mean error that is wanted at most."""

SESSIONS = 3
SECONDS = 9.0
"""Time for the runs that make a table; ten were allowed."""

CHECK_VISITS = 2
"""Held-out nets are visited twice as often: the judge must be better than the judged."""


def measure_session(resolution: int, threads: int, session: int, *, spin: bool) -> dict[str, Any]:
    """Return what one session says, with the state of the machine around it."""
    conditions = Conditions(threads=threads, spin=spin)
    settings = MeasureSettings(conditions, SECONDS, CHECK_VISITS, max_unsteadiness=float("inf"), accepts_disturbed=True)
    backend = open_backend("onnxruntime", conditions, get_target("cpu"))
    start = time.monotonic()
    before = state()
    with tempfile.TemporaryDirectory() as folder:
        kit = write_kit(Path(folder) / "kit", get_space(SPACE), [resolution], seed=session)
        table: LatencyTable = measure_kit(kit, backend, settings, Story())
    plain = table.to_dict()
    (details,) = plain["sessions"]
    return {
        "resolution": resolution,
        "threads": threads,
        "session": session,
        "spin": spin,
        "error": plain["error"],
        "details": details,
        "held_out": [[check["flops"], check["predicted_ms"], check["measured_ms"]] for check in plain["held_out"]],
        "seconds": round(time.monotonic() - start, 1),
        "state_before": before,
        "state_after": state(),
        "device": plain["device"],
        "time": plain["provenance"]["time"],
        "commit": plain["provenance"]["commit"],
    }


def summary(sessions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line a configuration: the median over its sessions, and their spread."""
    lines = []
    for resolution, threads, wanted in CONFIGURATIONS:
        own = [one["error"] for one in sessions if (one["resolution"], one["threads"]) == (resolution, threads)]
        if not own:
            continue
        mapes = sorted(error["mape"] for error in own)
        median = statistics.median(mapes)
        lines.append(
            {
                "resolution": resolution,
                "threads": threads,
                "sessions": len(own),
                "mape": {"median": round(median, 4), "all": [round(mape, 4) for mape in mapes], "wanted": wanted},
                "flops_line_mape": [round(error["flops_line_mape"], 4) for error in own],
                "repeatability_of_held_out": [round(error["repeatability"], 4) for error in own],
                "worst": round(max(error["worst"] for error in own), 4),
                "bias": [round(error["bias"], 4) for error in own],
                "spearman": [round(error["spearman"], 4) for error in own],
                "is_reached": median <= wanted,
                "beats_flops_line_in_each": all(error["mape"] < error["flops_line_mape"] for error in own),
            }
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--slots", type=int, default=SESSIONS * len(CONFIGURATIONS), help="stop after so many")
    parser.add_argument("--spin", action="store_true", help="let idle threads wait in a loop")
    parser.add_argument("--one", type=int, nargs=3, metavar=("PX", "THREADS", "SESSION"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        resolution, threads, session = args.one
        print(json.dumps(measure_session(resolution, threads, session, spin=args.spin)))
        return 0
    found = read_json(args.out)["sessions"] if args.out.exists() else []
    done = {(one["resolution"], one["threads"], one["session"]) for one in found}
    slots = [(px, n, s) for s in range(SESSIONS) for px, n, _ in CONFIGURATIONS if (px, n, s) not in done]
    for slot in slots[: args.slots]:
        words = [sys.executable, __file__, str(args.out), "--one", *map(str, slot), *(["--spin"] * args.spin)]
        finished = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
        if finished.returncode != 0:
            print(f"{slot[0]} px, {slot[1]} threads, session {slot[2]}: not measured; call again", file=sys.stderr)
            continue
        found.append(json.loads(finished.stdout))
        write_json(args.out, {"summary": summary(found), "sessions": found, "provenance": provenance()})
        error = found[-1]["error"]
        print(
            f"{slot[0]} px, {slot[1]} threads, session {slot[2]}: error {error['mape']:.2%}, FLOPs line "
            f"{error['flops_line_mape']:.2%}, held-out repeat within {error['repeatability']:.2%}, "
            f"{found[-1]['seconds']:.0f} s",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
