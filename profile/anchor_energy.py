"""Meter the anchors of a kit on this device: what its latency table tells of energy.

Relies on ``energy.py`` for the metering and on a backend to run the nets.
"""

from __future__ import annotations

from functools import partial

from deps.ground.console import Story
from deps.ground.energy import EnergyMeter
from deps.profile.backends.base import Backend
from deps.profile.energy import SECONDS, Energy, ToMeter, metered
from deps.profile.kit import Kit, KitNet
from deps.profile.measure import MeasureSettings

NETS = 4
"""So many anchors of each resolution are metered, from the smallest to the largest."""


def energy_of_anchors(
    kit: Kit,
    backend: Backend,
    settings: MeasureSettings,
    story: Story,
    meter: EnergyMeter | None = None,
    *,
    seconds: float = SECONDS,
) -> Energy:
    """Return what some anchors of each resolution take in energy, or why nobody knows.

    Args:
        kit: the nets.
        backend: runs them.
        settings: precision and batch.
        story: told what is done, since it takes a while.
        meter: reads the energy; by default all that can be read here.
        seconds: how long each net runs.

    Raises:
        LatencyTableError: the runtime cannot load a net.
    """
    meter = EnergyMeter.best() if meter is None else meter
    nets = []
    for resolution in kit.resolutions:
        anchors = sorted(kit.at(resolution, "anchor"), key=lambda net: _flops(kit, net))
        last = len(anchors) - 1
        for position in sorted({round(i * last / (NETS - 1)) for i in range(NETS)}):
            net = anchors[position]
            path = kit.path(net, settings.conditions.precision)
            load = partial(backend.load, path, kit.plan_of(net), is_profiled=False)
            nets.append(ToMeter(resolution, _flops(kit, net), load))
    if meter.source != "none":
        story.say(f"metering {len(nets)} anchors with {meter.source}, {seconds:g} s each")
    return metered(nets, settings.conditions.batch, meter, seconds=seconds)


def _flops(kit: Kit, net: KitNet) -> int:
    return sum(piece.macs for piece in kit.plan_of(net).pieces())
