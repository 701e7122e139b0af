"""A real kit and a real table of it, measured once; and one thread for torch, which else waits for its own threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from deps.ground.console import Story
from deps.profile.backends import open_backend
from deps.profile.backends.base import Backend, Conditions
from deps.profile.kit import Kit, write_kit
from deps.profile.latency import LatencyTable
from deps.profile.measure import MeasureSettings
from deps.profile.table import measure_kit
from deps.serve.targets import get_target
from deps.supernet import get_space

# Short, and believed however noisy: these tests are about what is written down, not about how fast this machine is.
QUICK = MeasureSettings(seconds=0.1, max_unsteadiness=float("inf"))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    folder = tmp_path_factory.mktemp("kits") / "digits"
    return write_kit(folder, get_space("digits"), [8], precisions=["fp32", "fp16", "cpu-int8", "trt-int8"], blocks=True)


@pytest.fixture(scope="session")
def backend() -> Backend:
    return open_backend("onnxruntime", Conditions(), get_target("cpu"))


@pytest.fixture(scope="session")
def quick() -> MeasureSettings:
    return QUICK


@pytest.fixture(scope="session")
def table(kit: Kit, backend: Backend) -> LatencyTable:
    return measure_kit(kit, backend, QUICK, Story(quiet=True))
