"""Times come from real runs; a machine too busy to be believed is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from deps.ground.errors import LatencyTableError
from deps.profile.backends.base import Backend, Conditions, Loaded
from deps.profile.kit import Kit, KitNet
from deps.profile.measure import MAX_UNSTEADINESS, MIN_VISITS, STRETCHES, MeasureSettings, Net, measure
from deps.supernet.pieces import Piece
from deps.supernet.plan import NetworkPlan


def net_of(kit: Kit, net: KitNet, *, is_profiled: bool = False) -> Net:
    return Net(net.name, kit.path(net, "fp32"), kit.layers(net), is_profiled, net.role == "held_out")


def some_nets(kit: Kit) -> list[Net]:
    nets = [net_of(kit, net, is_profiled=True) for net in list(kit.at(8, "designed"))[:2]]
    return nets + [net_of(kit, net) for net in list(kit.at(8, "anchor"))[:2] + list(kit.at(8, "held_out"))[:2]]


def test_whole_nets_and_nodes_are_timed_in_turns(kit: Kit, backend: Backend, quick: MeasureSettings) -> None:
    """Profiled and plain nets take turns, so that one state of the machine meets both."""
    nets = some_nets(kit)
    shares: list[float] = []
    measured = measure(backend, nets, net_of(kit, kit.probe), quick, shares.append)
    assert all(0 < ms < 1000 for ms in measured.levels.ms)
    assert (measured.levels.runs <= MIN_VISITS * STRETCHES * 50).all()
    assert sorted(measured.nodes) == [0, 1]
    for position, loads in measured.nodes.items():
        assert 1 <= len(loads) <= backend.loads
        assert 1 <= sum(len(nodes.times_ms) for nodes in loads) <= measured.levels.runs[position]
        for nodes in loads:
            assert nodes.times_ms.shape[1] == len(nodes.names)
            assert (nodes.times_ms >= 0).all()
            # The runtime fuses activations into convolutions, and never a whole piece away.
            pieces = [piece.name for piece in nets[position].what.pieces()]  # type: ignore[union-attr]
            assert all(any(name.startswith(piece) for name in nodes.names) for piece in pieces)
    assert 0 <= measured.clean_share <= 1
    assert 0 < measured.table_seconds < measured.seconds
    # A bar that was told these shares ends where it should.
    assert sum(shares) == pytest.approx(1)


class Counting:
    """A backend that knows how many nets it has loaded, and how many are loaded now."""

    def __init__(self, backend: Backend) -> None:
        self.name, self.has_node_times, self.has_cpu_clock = backend.name, True, True
        self.max_group, self.loads = backend.max_group, 3
        self.facts = backend.facts
        self._backend = backend
        self.loaded: list[str] = []
        self.now = self.most = 0

    def load(self, path: Path, what: NetworkPlan | Piece, *, is_profiled: bool) -> Loaded:
        self.loaded.append(path.stem)
        self.now += 1
        self.most = max(self.most, self.now)
        net = self._backend.load(path, what, is_profiled=is_profiled)
        close = net.close

        def counted() -> None:
            self.now -= 1
            close()

        net.close = counted  # type: ignore[method-assign]
        return net


def test_nets_are_loaded_anew_and_never_twice_at_once(kit: Kit, backend: Backend, quick: MeasureSettings) -> None:
    """Where its weights lie decides some per cent of a copy's time, so each net is seen at several places."""
    nets, counting = some_nets(kit), Counting(backend)
    measured = measure(counting, nets, net_of(kit, kit.probe), quick)
    assert counting.now == 0
    assert counting.most == len(nets) + 1
    assert {counting.loaded.count(net.name) for net in nets} == {3}
    assert (measured.levels.runs >= MIN_VISITS * STRETCHES // 2).all()


def test_judges_are_visited_as_often_as_asked(kit: Kit, backend: Backend) -> None:
    """The judge must be better than the judged; nets that make the table keep their share of the time."""
    nets = some_nets(kit)
    settings = MeasureSettings(seconds=0.05, check_visits=3, max_unsteadiness=math.inf)
    runs = measure(backend, nets, net_of(kit, kit.probe), settings).levels.runs
    assert runs[4] > 2 * runs[3]


def test_damaged_net_is_named(kit: Kit, backend: Backend, quick: MeasureSettings, tmp_path: Path) -> None:
    """A file that cannot be loaded is found out before anything is timed."""
    nets = some_nets(kit)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(nets[0].path.read_bytes()[:200])
    with pytest.raises(LatencyTableError, match=r"broken\.onnx cannot be loaded"):
        measure(backend, [*nets, Net("broken", broken, nets[0].what)], net_of(kit, kit.probe), quick)


@pytest.mark.parametrize(
    ("change", "message"), [({"seconds": 0}, "seconds is 0"), ({"check_visits": 0}, "check_visits is 0")]
)
def test_impossible_settings_are_refused(change: dict[str, int], message: str) -> None:
    """The numbers come from the command line."""
    with pytest.raises(LatencyTableError, match=message):
        MeasureSettings(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(("change", "message"), [({"threads": 0}, "threads is 0"), ({"batch": 0}, "batch is 0")])
def test_impossible_conditions_are_refused(change: dict[str, int], message: str) -> None:
    """So do these."""
    with pytest.raises(LatencyTableError, match=message):
        Conditions(**change)  # type: ignore[arg-type]


def test_default_limit_is_tighter_than_a_flops_line() -> None:
    """A limit that lets through what a straight line could do as well would be no limit."""
    assert MeasureSettings().max_unsteadiness == MAX_UNSTEADINESS < 0.1
