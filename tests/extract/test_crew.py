"""Two processes measure in half the time what one does, and decide alike."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deps.extract.crew import Crew, crew_from_environment
from deps.extract.evaluate import Evaluator, Measurements
from deps.ground.console import Story
from deps.ground.errors import RunError
from deps.supernet.sampling import random_archs

QUIET = Story(quiet=True)

MEMBER = """
import sys, json
import numpy as np, torch
from pathlib import Path
from deps.extract.crew import crew_from_environment
from deps.extract.evaluate import Evaluator
from deps.ground.console import Story
from deps.supernet.sampling import random_archs
from deps.train.run import open_run

torch.set_num_threads(1)
run = open_run(Path(sys.argv[1]))
with crew_from_environment() as crew:
    evaluator = Evaluator(run.supernet(), run.data(), cache=Path(sys.argv[2]), calibration_images=50, crew=crew)
    archs = random_archs(run.supernet().space, 5, np.random.default_rng(0))
    measured = evaluator.measure(archs, Story(quiet=True))
print(json.dumps([crew.rank, evaluator.num_measured, measured.top1.tolist(), measured.loss.tolist()]))
"""


def test_alone_a_process_does_everything():
    """Without torchrun nothing is set up."""
    with crew_from_environment() as crew:
        assert crew == Crew()
        assert crew.is_first
        assert crew.share([1, 2, 3]) == [1, 2, 3]
        assert crew.agree("plan") == "plan"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_shares_are_the_whole(size):
    """No subnet is forgotten and none is measured twice."""
    shares = [Crew(rank, size).share(range(5)) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == [0, 1, 2, 3, 4]


def test_two_processes_share_the_measuring_and_know_all_of_it(run, tmp_path):
    """Real processes over gloo: each measures its share, both end with the numbers that one would have found."""
    cache = tmp_path / "measurements.jsonl"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(run.folder), str(cache)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    answers = []
    for process in processes:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        answers.append(json.loads(out.splitlines()[-1]))
    (rank0, count0, *first), (rank1, count1, *second) = answers
    assert (rank0, rank1, count0, count1) == (0, 1, 3, 2)
    assert first == second
    alone = Evaluator(run.supernet(), run.data(), cache=cache, calibration_images=50)
    archs = random_archs(run.supernet().space, 5, np.random.default_rng(0))
    expected = alone.measure(archs, QUIET)
    assert alone.num_measured == 0
    np.testing.assert_array_equal(first, np.array(expected))
    afresh = Evaluator(run.supernet(), run.data(), calibration_images=50).measure(archs[:2], QUIET)
    np.testing.assert_allclose(np.array(first)[:, :2], np.array(afresh), rtol=1e-6)


def test_processes_that_cannot_meet_say_how_to_start_them(monkeypatch):
    """A WORLD_SIZE that is left over from another job is the usual reason."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RunError, match="start them with torchrun"), crew_from_environment():
        pass


def test_what_another_process_measured_is_known_without_reading_the_file_again(digits, tmp_path, rng):
    """The file is written by all; what counts now is what was told."""
    from deps.supernet.evaluation import Accuracy

    (arch,) = random_archs(digits, 1, rng)
    known = Measurements(tmp_path / "m.jsonl", {})
    known.learn([(arch, Accuracy(0.5, 1.0))])
    assert known.get(arch) == Accuracy(0.5, 1.0)
    assert not Path(tmp_path / "m.jsonl").exists()
