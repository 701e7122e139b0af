"""ONNX Runtime runs every precision that it should, and its profile tells the nodes of each stretch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deps.ground.errors import LatencyTableError
from deps.profile.backends import BACKENDS, open_backend
from deps.profile.backends.base import Backend, Conditions
from deps.profile.backends.onnxruntime import _scratch
from deps.profile.kit import Kit
from deps.profile.pieces import clock_ms, profiled_pieces
from deps.serve.targets import get_target


@pytest.mark.parametrize("precision", BACKENDS["onnxruntime"])
@pytest.mark.parametrize("threads", [1, 2])
def test_pieces_of_every_precision_are_told_apart(kit: Kit, precision: str, threads: int) -> None:
    """Node names survive quantisation and fusion, so that each piece gets a time of its own."""
    conditions = Conditions(precision, batch=2, threads=threads)  # type: ignore[arg-type]
    net = next(kit.at(8, "designed"))
    loaded = open_backend("onnxruntime", conditions, get_target("cpu")).load(
        kit.path(net, conditions.precision), kit.layers(net), is_profiled=True
    )
    loaded.run()
    samples = [loaded.timed(3) for _ in range(4)]
    nodes = loaded.node_times()
    loaded.close()
    assert nodes.times_ms.shape == (4, len(nodes.names))
    # Nodes fit into the stretch that they ran in.
    assert all(0 < row.sum() < 1.2 * sample.ms for row, sample in zip(nodes.times_ms, samples, strict=True))
    pieces = profiled_pieces(kit.plan_of(net), nodes.names, nodes.times_ms, holds_clock=nodes.holds_clock)
    # The cheapest node moves a few numbers: some microseconds, most of which are the profiler's own.
    assert 0 < clock_ms(pieces.values()) < 0.1
    assert sum(piece.nodes_ms > 0 for piece in pieces.values()) >= len(pieces) - 1


def test_folder_of_a_profile_goes_with_the_net(kit: Kit, backend: Backend) -> None:
    """Hundreds of profiles would fill a small board."""
    scratch = Path(_scratch().name)
    before = set(scratch.iterdir())
    net = next(kit.at(8, "designed"))
    loaded = backend.load(kit.path(net, "fp32"), kit.layers(net), is_profiled=True)
    assert len(set(scratch.iterdir()) - before) == 1
    loaded.close()
    assert set(scratch.iterdir()) == before


def test_net_that_is_none_is_refused(backend: Backend, kit: Kit, tmp_path: Path) -> None:
    """The runtime's own words are passed on, in one line."""
    path = tmp_path / "x.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(LatencyTableError, match=r"x\.onnx cannot be loaded by onnxruntime \([^\n]*; write the kit"):
        backend.load(path, kit.layers(kit.probe), is_profiled=False)


def test_quantised_graph_runs_quantised_kernels(kit: Kit) -> None:
    """A made-up scale that the runtime does not like leaves convolutions in float32, and the table of another world."""
    conditions = Conditions("cpu-int8")
    net = next(kit.at(8, "designed"))
    loaded = open_backend("onnxruntime", conditions, get_target("cpu")).load(
        kit.path(net, "cpu-int8"), kit.layers(net), is_profiled=True
    )
    loaded.timed(1)
    names = loaded.node_times().names
    loaded.close()
    convolutions = [name for name in names if name.split("_")[0].endswith(".conv")]
    # A fused node bears a token in its name; one that was left alone bears that of its graph.
    assert len(convolutions) > 5
    assert np.mean(["token" in name for name in convolutions]) == 1
