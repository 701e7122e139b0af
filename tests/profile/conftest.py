"""A real kit and a real table of it, measured once; and one thread for torch, which else waits for its own threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from deps.ground.console import Story
from deps.profile.kit import Kit, write_kit
from deps.profile.latency import LatencyTable
from deps.profile.measure import MIN_CLEAN, MeasureSettings
from deps.profile.table import measure_kit
from deps.supernet import get_space

# Few rounds, believed however noisy: these tests are about what is written down, not about how fast this machine is.
QUICK = MeasureSettings(min_rounds=MIN_CLEAN, max_rounds=MIN_CLEAN, max_unsteadiness=float("inf"))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return write_kit(tmp_path_factory.mktemp("kits") / "digits", get_space("digits"), [8])


@pytest.fixture(scope="session")
def table(kit: Kit) -> LatencyTable:
    return measure_kit(kit, QUICK, Story(quiet=True))
