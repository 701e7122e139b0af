"""Export what was chosen, each subnet once however many bundles hold it, and write the bundles.

Relies on ``export.py`` for files that were run and compared, and on ``bundle.py`` for folders that are whole or absent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from deps.extract.bundle import Contents, Costs, Member, write_bundle
from deps.extract.config import ExtractConfig
from deps.extract.evaluate import Evaluator
from deps.extract.export import Exports, Subnet, export_family
from deps.extract.finetuned import Finetuned, finetuned
from deps.extract.goal import Goal
from deps.extract.page import Page, page_html
from deps.extract.report import ExtractReport, Landscape, plot_png
from deps.extract.triton import write_repository
from deps.extract.unmeasured import export_unmeasured
from deps.ground.console import Story
from deps.ground.provenance import provenance
from deps.ground.units import format_count
from deps.profile.flops import Cost, count
from deps.serve.bundle import read_bundle
from deps.supernet import ArchSpec, SearchSpace
from deps.supernet.network import Network
from deps.supernet.sampling import encode
from deps.train.run import Run


class Shipment:
    """The exports of one extraction, and the bundles that are made of them."""

    def __init__(self, run: Run, evaluator: Evaluator, config: ExtractConfig, story: Story) -> None:
        self.run, self.evaluator, self.config, self.story = run, evaluator, config, story
        self._exports: dict[ArchSpec, Exports] = {}
        self._finetuned: dict[ArchSpec, Finetuned] = {}

    @property
    def space(self) -> SearchSpace:
        """The search space."""
        return self.evaluator.supernet.space

    def bundle(
        self, goal: Goal, archs: list[ArchSpec], search: Mapping[str, Any], landscape: Landscape | None
    ) -> ExtractReport:
        """Write the bundle of one goal.

        Args:
            goal: the target, the budget and the place.
            archs: the subnets, most accurate first.
            search: how they were found.
            landscape: what they were chosen among, where that was measured.

        Raises:
            ExportError: a graph does not compute what the subnet computes.
            FileError: the bundle cannot be written.
        """
        self._export(archs)
        members = tuple(self._member(goal, arch) for arch in archs)
        title = f"{members[0].name}, {goal.target.name}"
        contents = Contents(
            target=goal.target,
            space=self.space,
            members=members,
            data=self.evaluator.data,
            search=search,
            provenance={**provenance(), "source": self._source(archs)},
            extras=self._pictures(goal, members, landscape, title),
        )
        manifest = write_bundle(goal.out, contents, self.story)
        if self.config.triton is not None:
            several = len(self.config.targets) > 1
            place = self.config.triton / goal.target.name if several else self.config.triton
            repository = write_repository(read_bundle(goal.out), goal.target, place)
            self.story.say(repository.to_text())
        return ExtractReport(
            bundle=goal.out,
            run=self.run.folder,
            manifest=manifest,
            budget=goal.budget,
            members=members,
            landscape=landscape,
        )

    def _member(self, goal: Goal, arch: ArchSpec) -> Member:
        cost = count(self.space, arch)
        name = subnet_name(self.space, arch, cost)
        return Member(
            name=name,
            arch=arch,
            costs=Costs(**cost.to_dict()),
            exports=self._exports[arch],
            latency=goal.latency(self.space, arch),
        )

    def _export(self, archs: list[ArchSpec]) -> None:
        """Export the subnets that were not exported yet, all at once, so that they share images."""
        missing = [arch for arch in dict.fromkeys(archs) if arch not in self._exports]
        subnets = [Subnet(self.space, arch, self._network(arch), self._metadata(arch)) for arch in missing]
        data, config = self.evaluator.data, self.config
        if self.evaluator.has_images:
            exports = export_family(subnets, data, self.story, max_drop=config.max_drop, seed=config.seed)
        else:
            exports = export_unmeasured(subnets, data, self.story)
        self._exports.update(zip(missing, exports, strict=True))

    def _network(self, arch: ArchSpec) -> Network:
        """Return the recalibrated subnet, trained further where that was asked for and helped."""
        network, config = self.evaluator.subnet(arch), self.config
        if not config.finetune:
            return network.to("cpu")
        found = finetuned(network, arch, self.run, self.evaluator, self.story, epochs=config.finetune, seed=config.seed)
        self.story.say(f"{self._metadata(arch)['deps.subnet']}: {found.to_text()}")
        self._finetuned[arch] = found
        return found.network.to("cpu")

    def _metadata(self, arch: ArchSpec) -> dict[str, str]:
        return {
            "deps.subnet": subnet_name(self.space, arch, count(self.space, arch)),
            "deps.arch": json.dumps(arch.to_dict()),
            "deps.space": self.space.name,
            "deps.supernet_sha256": self.evaluator.supernet_sha256,
        }

    def _pictures(
        self, goal: Goal, members: tuple[Member, ...], landscape: Landscape | None, title: str
    ) -> dict[str, bytes]:
        if not self.evaluator.has_images:
            return {}  # they show accuracies, and there are none
        notes = [f"{m.name}: {self._finetuned[m.arch].to_text()}" for m in members if m.arch in self._finetuned]
        page = Page(
            title=title,
            target=goal.target,
            budget=goal.budget.describe(),
            space=self.space,
            members=members,
            landscape=landscape,
            table=goal.table,
            run=self.run.name,
            notes=tuple(notes),
        )
        pictures = {"report/index.html": page_html(page).encode()}
        if landscape is not None:
            pictures["report/pareto.png"] = plot_png(landscape, title)
        return pictures

    def _source(self, archs: list[ArchSpec]) -> dict[str, Any]:
        trained = {
            self._metadata(arch)["deps.subnet"]: {
                "epochs": found.epochs,
                "before": found.before._asdict(),
                "after": found.after._asdict(),
                "is_kept": found.is_kept,
            }
            for arch in archs
            if (found := self._finetuned.get(arch)) is not None
        }
        return {
            **({"finetuned": trained} if trained else {}),
            "run": self.run.name,
            "space": self.space.name,
            "supernet_sha256": self.evaluator.supernet_sha256,
            "supernet": self.evaluator.supernet.provenance,
            "seed": self.config.seed,
        }


def subnet_name(space: SearchSpace, arch: ArchSpec, cost: Cost) -> str:
    """Return the name of a subnet: its space, its FLOPs, and six digits that tell it from others of as many."""
    digits = hashlib.sha256(encode(space, [arch]).tobytes()).hexdigest()[:6]
    return f"{space.name}-{format_count(cost.flops)}-{digits}"
