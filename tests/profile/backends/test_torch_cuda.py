"""The modules that are timed with torch are those of the network; running them needs the GPU."""

from __future__ import annotations

import pytest
import torch

from deps.ground.console import Story
from deps.profile.backends import open_backend
from deps.profile.backends.base import Conditions
from deps.profile.backends.torch_cuda import piece_modules
from deps.profile.kit import Kit
from deps.profile.measure import MeasureSettings
from deps.profile.table import measure_kit
from deps.serve.engines.cudart import why_no_gpu
from deps.serve.targets import get_target
from deps.supernet.network import network


def test_pieces_one_after_the_other_are_the_network(kit: Kit) -> None:
    """Times between pieces add up to the network's only if nothing else runs."""
    net = next(kit.at(8, "held_out"))
    whole = network(kit.space, kit.archs[net.name]).eval()
    modules = piece_modules(kit.plan_of(net))
    state = whole.state_dict()
    x = torch.randn(2, 1, 8, 8)
    expected = whole(x)
    for name, module in modules:
        own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        module.load_state_dict(own)
        x = module(x)
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(why_no_gpu() is not None, reason=f"no GPU: {why_no_gpu()}")
@pytest.mark.parametrize("name", ["torch-cuda", "torch-cuda-eager"])
def test_gpu_makes_a_table(kit: Kit, name: str) -> None:
    """The whole way, where there is a GPU."""
    conditions = Conditions("fp16")
    backend = open_backend(name, conditions, get_target("rtx"))
    table = measure_kit(
        kit, backend, MeasureSettings(conditions, 0.2, max_unsteadiness=float("inf")), Story(quiet=True)
    )
    assert table.backend == name
