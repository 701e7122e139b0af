"""Times come from real runs, slow rounds are divided out, and a machine too busy to be believed is refused."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.ground.console import Story
from deps.ground.errors import LatencyTableError
from deps.profile.kit import Kit
from deps.profile.measure import (
    MAX_UNSTEADINESS,
    MIN_CLEAN,
    Measured,
    MeasureSettings,
    Net,
    measure,
    net_times,
    runnable,
    timed,
)
from deps.supernet.plan import plan

BELIEVING = float("inf")
QUIET = Story(quiet=True)


def nets_of(kit: Kit, count: int) -> list[Net]:
    """Return some nets of a kit, profiled where they are designed."""
    chosen = [pair for pair in kit.at(8) if pair[0].role == "designed"][:2]
    chosen += [pair for pair in kit.at(8) if pair[0].role == "held_out"][: count - 2]
    return [Net(kit.folder / net.file, 1 << 20, is_profiled=net.role == "designed") for net, _ in chosen]


@given(
    net_ms=st.lists(st.floats(0.05, 50), min_size=3, max_size=12),
    slowness=st.lists(st.floats(1, 4), min_size=9, max_size=30),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_slow_rounds_are_divided_out(net_ms: list[float], slowness: list[float], seed: int) -> None:
    """A neighbour on the same core makes a whole round slower; ratios between nets must survive that, exactly."""
    matrix = np.outer(slowness, net_ms)
    # Fewer than half of a net's and of a round's times may go wrong without moving anything.
    rng = np.random.default_rng(seed)
    matrix[rng.integers(len(slowness)), rng.integers(len(net_ms))] *= 30
    net, slow = net_times(matrix)
    np.testing.assert_allclose(net / net[0], np.array(net_ms) / net_ms[0], rtol=1e-6)
    np.testing.assert_allclose(slow / slow[0], np.array(slowness) / slowness[0], rtol=1e-6)
    usual = np.exp(np.percentile(np.log(slowness), 25))
    np.testing.assert_allclose(net, np.array(net_ms) * usual, rtol=1e-6)


def test_nets_that_miss_rounds_are_compared_all_the_same() -> None:
    """Large kits are loaded in groups; the two nets that stand in every group tie their rounds together."""
    net_ms, slowness = np.array([1.0, 2.0, 3.0, 4.0]), np.repeat([1.0, 2.5], 9)
    matrix = np.outer(slowness, net_ms)
    matrix[:9, 3] = np.nan
    matrix[9:, 2] = np.nan
    net, slow = net_times(matrix)
    np.testing.assert_allclose(net / net[0], net_ms, rtol=1e-9)
    np.testing.assert_allclose(slow / slow[0], slowness, rtol=1e-9)


def test_round_without_any_time_has_no_slowness() -> None:
    """A round in which nothing was clean says nothing, and says so."""
    matrix = np.outer(np.ones(6), [1.0, 2.0])
    matrix[2] = np.nan
    net, slow = net_times(matrix)
    np.testing.assert_allclose(net, [1, 2])
    assert np.isnan(slow).tolist() == [False, False, True, False, False, False]


def test_timed_counts_runs_and_reads_both_clocks() -> None:
    """Times are of one run, whatever the length of the burst."""
    calls = []

    def work() -> None:
        calls.append(sum(range(20_000)))

    burst = timed(work, 7)
    assert len(calls) == 7
    assert burst.cpu_ms > 0
    assert burst.wall_ms > 0


@pytest.mark.skipif(runnable() is None, reason="this system has no /proc/loadavg")
def test_burst_beside_a_busy_neighbour_is_not_clean() -> None:
    """The wall clock counts only what nothing disturbed; a thread that spins is such a disturbance."""
    stop = threading.Event()

    def spin() -> None:
        # Hashing a large buffer gives up the interpreter's lock, so that the neighbour truly runs at the same time.
        import hashlib

        data = bytes(1 << 22)
        while not stop.is_set():
            hashlib.sha256(data)

    neighbours = [threading.Thread(target=spin) for _ in range(2)]
    for neighbour in neighbours:
        neighbour.start()
    try:
        import hashlib

        data = bytes(1 << 22)
        bursts = [timed(lambda: hashlib.sha256(data), 5) for _ in range(20)]
    finally:
        stop.set()
        for neighbour in neighbours:
            neighbour.join()
    assert sum(burst.is_clean for burst in bursts) < 10


def check_measured(measured: Measured, kit: Kit, nets: list[Net]) -> None:
    assert sorted(measured.net_ms) == [i for i, net in enumerate(nets) if not net.is_profiled]
    assert all(0 < ms < 1000 for ms in measured.net_ms.values())
    assert sorted(measured.nodes) == [i for i, net in enumerate(nets) if net.is_profiled]
    designed = [arch for net, arch in kit.at(8) if net.role == "designed"]
    for position, nodes in measured.nodes.items():
        rounds, count = nodes.times_ms.shape
        assert 1 <= rounds <= measured.rounds
        assert count == len(nodes.names)
        assert (nodes.times_ms >= 0).all()
        # The runtime fuses activations into convolutions, and never a whole piece away.
        pieces = [piece.name for piece in plan(kit.space, designed[position]).pieces()]
        assert all(any(name.startswith(piece) for name in nodes.names) for piece in pieces)
    assert 0 <= measured.clean_share <= 1
    assert measured.unsteadiness >= 0


def test_whole_nets_and_nodes_are_timed_in_one_session(kit: Kit) -> None:
    """Profiled and plain nets take turns, so that one state of the machine meets both."""
    nets = nets_of(kit, 6)
    limits = MeasureSettings(min_rounds=MIN_CLEAN, max_rounds=10, max_unsteadiness=BELIEVING)
    measured = measure(nets, limits, QUIET)
    assert MIN_CLEAN <= measured.rounds <= 10
    check_measured(measured, kit, nets)


def test_nets_too_large_for_memory_are_measured_in_groups(kit: Kit) -> None:
    """Four hundred live sessions took 14 GB; a claimed size of 1 GB each makes several groups here."""
    nets = [Net(net.path, 1 << 30, net.is_profiled) for net in nets_of(kit, 6)]
    limits = MeasureSettings(min_rounds=MIN_CLEAN, max_rounds=MIN_CLEAN, max_unsteadiness=BELIEVING)
    measured = measure(nets, limits, QUIET)
    assert measured.rounds > MIN_CLEAN
    check_measured(measured, kit, nets)


def test_noisy_machine_is_refused_with_what_to_do(kit: Kit) -> None:
    """No machine is perfectly steady, so a limit of nothing must always refuse."""
    limits = MeasureSettings(min_rounds=MIN_CLEAN, max_rounds=MIN_CLEAN, max_unsteadiness=0)
    with pytest.raises(LatencyTableError, match=r"too noisy.*stop other programs"):
        measure(nets_of(kit, 5), limits, QUIET)


def test_damaged_net_is_named(kit: Kit, tmp_path: Path) -> None:
    """A copy that stopped halfway is found out before anything is timed."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(nets_of(kit, 3)[0].path.read_bytes()[:200])
    with pytest.raises(LatencyTableError, match=r"broken\.onnx cannot be loaded"):
        measure([*nets_of(kit, 4), Net(broken, 1, is_profiled=False)], MeasureSettings(), QUIET)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"threads": 0}, "threads is 0"), ({"batch": 0}, "batch is 0"), ({"min_rounds": 2}, "min_rounds is 2")],
)
def test_impossible_settings_are_refused(change: dict[str, int], message: str) -> None:
    """The numbers come from the command line."""
    with pytest.raises(LatencyTableError, match=message):
        MeasureSettings(**change)


def test_default_limit_is_tighter_than_a_flops_line() -> None:
    """A limit that lets through what a straight line could do as well would be no limit."""
    assert MeasureSettings().max_unsteadiness == MAX_UNSTEADINESS < 0.1
