"""A process that has imported torch already and forks trainings on request, so that tests can afford many of them.

Reads one JSON order a line from stdin, answers with one JSON line each: ``{"run": [flags], "env": {}, "log": path,
"at": {...}}`` starts a training and answers its process id; ``{"wait": pid}`` answers its exit code, negative for a
signal. ``at`` says what happens to the training after some steps: ``{"step": 3, "do": "SIGKILL"}``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


class ForkServer:
    """The other end: starts the server and talks to it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, **order: Any) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        return int(json.loads(self.process.stdout.readline()))

    def start(self, flags: list[str], log: Path, *, env: dict[str, str] | None = None, at: Any = None) -> int:
        """Start ``deps-train`` with some flags; return its process id."""
        return self.ask(run=flags, log=str(log), env=env or {}, at=at)

    def wait(self, pid: int) -> int:
        """Return the exit code of a training; minus the number of the signal that ended it."""
        return self.ask(wait=pid)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def train(order: dict[str, Any]) -> int:
    """Be the training."""
    from deps.train import loop
    from deps.train.cli import main

    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.update(order["env"])
    if at := order["at"]:
        real, done = loop.train_step, []

        def step(*args: Any, **options: Any) -> Any:
            done.append(1)
            if len(done) == at["step"]:
                if at["do"] == "fail":
                    raise loop.DataError("images/cat.png cannot be read; mend it")
                os.kill(os.getpid(), getattr(signal, at["do"]))
            return real(*args, **options)

        loop.train_step = step
    return main(order["run"])


def serve() -> None:
    """Answer until stdin ends."""
    # What a training imports on its way, so that no child has to.
    import torch._dynamo
    import torch.utils.tensorboard.writer  # noqa: F401

    import deps.train.loop  # noqa: F401
    from deps.train.datasets import load_data

    load_data("digits")

    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
                code = train(order)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
