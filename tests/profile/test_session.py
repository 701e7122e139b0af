"""Groups of nets are measured, remembered and put together again, in one process or in several."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deps.ground.console import Story
from deps.ground.errors import LatencyTableError
from deps.profile import session
from deps.profile.backends.base import Backend, Loaded, Sample
from deps.profile.kit import Kit
from deps.profile.measure import MeasureSettings
from deps.profile.session import measure_parts
from deps.supernet.pieces import Piece
from deps.supernet.plan import NetworkPlan

QUIET = Story(quiet=True)


class Slower:
    """The real runtime, seen through a clock that runs fast; counts what it loads, and stops when told to."""

    def __init__(
        self, backend: Backend, factor: float, *, max_group: int = 8, stop_after: int = 1000, loads: int = 1
    ) -> None:
        self.name, self.has_node_times, self.has_cpu_clock = backend.name, True, True
        self.max_group, self.loads = max_group, loads
        self._backend, self._factor, self._left = backend, factor, stop_after
        self.loaded: list[str] = []

    def facts(self) -> dict[str, object]:
        return self._backend.facts()

    def load(self, path: Path, what: NetworkPlan | Piece, *, is_profiled: bool) -> Loaded:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        self.loaded.append(path.stem)
        net = self._backend.load(path, what, is_profiled=is_profiled)
        timed, factor = net.timed, self._factor

        def slower(runs: int) -> Sample:
            sample = timed(runs)
            return Sample(sample.ms * factor, sample.cpu_ms * factor, sample.is_clean)

        net.timed = slower  # type: ignore[method-assign]
        return net


@pytest.fixture(name="kit")
def small_kit(kit: Kit) -> Kit:
    """A few nets of the kit, in three groups."""
    chosen = [*list(kit.at(8, "designed"))[:2], *list(kit.at(8, "anchor"))[:8], *list(kit.at(8, "held_out"))[:4]]
    return replace(kit, manifest=replace(kit.manifest, nets=(kit.probe, *chosen)))


@pytest.fixture
def short(quick: MeasureSettings) -> MeasureSettings:
    return replace(quick, seconds=0.05)


def test_groups_tie_their_times_by_shared_anchors(kit: Kit, backend: Backend, short: MeasureSettings) -> None:
    """Nets too many for memory are measured in groups; anchors that stand in each make their times comparable."""
    slow = Slower(backend, 1.0)
    (part,) = measure_parts(kit, slow, short, QUIET)
    anchors = [net.name for net in kit.at(8, "anchor")]
    counts = [slow.loaded.count(name) for name in anchors]
    assert sorted(set(counts)) == [1, 3]
    assert counts.count(3) == session.TIES
    assert set(part.nets) == {net.name for net in kit.at(8, "anchor", "held_out")}
    assert len(part.pieces) == len(list(kit.at(8, "designed")))


def test_killed_measurement_goes_on_and_divides_out_the_drift(
    kit: Kit, backend: Backend, short: MeasureSettings, tmp_path: Path
) -> None:
    """Processes minutes apart differ by some percent; here the second sees everything three times slower."""
    journal = tmp_path / "journal"
    first = Slower(backend, 1.0, stop_after=12)
    with pytest.raises(KeyboardInterrupt):
        measure_parts(kit, first, short, QUIET, journal)
    (done,) = [json.loads(line)["unit"] for line in journal.read_text().splitlines()[1:]]
    assert done == "8 px 1/3"

    second = Slower(backend, 3.0)
    (part,) = measure_parts(kit, second, short, QUIET, journal)
    # All anchors of the first group were measured again, before anything else.
    assert sorted(second.loaded[:8]) == [net.name for net in kit.at(8, "anchor")]
    units = [json.loads(line)["unit"] for line in journal.read_text().splitlines()[1:]]
    assert units == ["8 px 1/3", "8 px 2/3", "8 px 3/3"]
    fresh = Slower(backend, 1.0)
    (whole,) = measure_parts(kit, fresh, short, QUIET)
    ratios = sorted(part.nets[net.name].ms / whole.nets[net.name].ms for net in kit.at(8, "held_out"))
    assert 0.5 < ratios[len(ratios) // 2] < 2


def test_finished_measurement_runs_nothing(kit: Kit, backend: Backend, short: MeasureSettings, tmp_path: Path) -> None:
    """A command that was killed while it wrote the table has nothing left to measure."""
    journal = tmp_path / "journal"
    first = measure_parts(kit, Slower(backend, 1.0), short, QUIET, journal)
    assert measure_parts(kit, Slower(backend, 1.0, stop_after=0), short, QUIET, journal) == first


@pytest.mark.parametrize("known", [4, 5])
def test_journal_of_an_older_version_is_read(
    known: int, kit: Kit, backend: Backend, short: MeasureSettings, tmp_path: Path
) -> None:
    """One that tells nothing of parts, or of the cheapest nodes: what was measured counts."""
    journal = tmp_path / "journal"
    (new,) = measure_parts(kit, Slower(backend, 1.0), short, QUIET, journal)
    assert all(piece.least_ms > 0 for net in new.pieces for piece in net.values() if piece.num_nodes)
    head, *records = map(json.loads, journal.read_text().splitlines())
    for record in records:
        for pieces in record["pieces"].values():
            pieces.update({key: told[:known] for key, told in pieces.items()})
    journal.write_text("".join(json.dumps(line) + "\n" for line in (head, *records)))
    (old,) = measure_parts(kit, Slower(backend, 1.0, stop_after=0), short, QUIET, journal)
    lacking: dict[str, Any] = {"parts": ()} if known == 5 else {"parts": (), "least_ms": 0.0}
    expected = [{key: replace(piece, **lacking) for key, piece in net.items()} for net in new.pieces]
    assert list(old.pieces) == expected


def test_noisy_machine_is_refused_with_what_to_do(
    kit: Kit, backend: Backend, short: MeasureSettings, tmp_path: Path
) -> None:
    """No machine is perfectly steady, so a limit of nothing must always refuse; the bad group is not remembered."""
    with pytest.raises(LatencyTableError, match=r"too noisy.*stop other programs"):
        measure_parts(kit, backend, replace(short, max_unsteadiness=0), QUIET, tmp_path / "journal")
    assert len((tmp_path / "journal").read_text().splitlines()) == 1


def test_kit_without_anchors_is_refused(kit: Kit, backend: Backend, short: MeasureSettings) -> None:
    """Without them, profiled times would be passed off as times of whole nets."""
    nets = [net for net in kit.manifest.nets if net.role != "anchor"]
    poorer = replace(kit, manifest=replace(kit.manifest, nets=tuple(nets)))
    with pytest.raises(LatencyTableError, match="has no anchor nets at 8 px"):
        measure_parts(poorer, backend, short, QUIET)
