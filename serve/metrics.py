"""Prometheus metrics, in the text format 0.0.4, written from the models' accounts at the moment they are asked for.

Relies on ``models.py`` for every number; nothing is counted twice, and no library is needed. Names end in their unit,
counters in ``_total``; what a label can be is bounded by what is served.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from deps.serve.models import Model
from deps.serve.repository import Repository
from deps.serve.statistics import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Upper bounds of the batch histogram, the sizes for which engines keep graphs."""

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_STARTED = time.time()


class _Page:
    """The text as it grows, one family after the other."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def family(self, name: str, kind: str, told: str) -> None:
        self.lines += [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]

    def sample(self, name: str, labels: Mapping[str, object], value: float) -> None:
        inside = ",".join(f'{key}="{str(label).translate(_ESCAPES)}"' for key, label in labels.items())
        self.lines.append(f"{name}{{{inside}}} {value!r}" if inside else f"{name} {value!r}")

    def histogram(self, name: str, labels: Mapping[str, object], bounds: Iterable[float], told: Histogram) -> None:
        total = 0
        for bound, count in zip(bounds, told.counts, strict=False):
            total += count
            self.sample(f"{name}_bucket", {**labels, "le": f"{bound:g}"}, total)
        total += told.counts[-1]
        self.sample(f"{name}_bucket", {**labels, "le": "+Inf"}, total)
        self.sample(f"{name}_sum", labels, told.sum)
        self.sample(f"{name}_count", labels, total)


def metrics_text(repository: Repository) -> str:
    """Return the page that Prometheus scrapes."""
    page = _Page()
    _requests(page, repository)
    _engines(page, repository)
    _process(page)
    return "\n".join(page.lines) + "\n"


def _requests(page: _Page, repository: Repository) -> None:
    served = [(entry.name, entry.statistics) for entry in repository.served.values()]
    page.family("deps_requests_total", "counter", "Requests for inference, by what became of them.")
    for name, told in served:
        outcomes = {
            "answered": told.success.count,
            "refused": sum(told.refusals.values()),
            "failed": told.errors,
            "cancelled": told.cancelled,
        }
        for outcome, count in outcomes.items():
            page.sample("deps_requests_total", {"model": name, "outcome": outcome}, count)
    page.family("deps_refusals_total", "counter", "Requests that were refused, by HTTP status.")
    for name, told in served:
        for status, count in sorted(told.refusals.items()):
            page.sample("deps_refusals_total", {"model": name, "status": status}, count)
    page.family("deps_images_total", "counter", "Images in answered requests.")
    for name, told in served:
        page.sample("deps_images_total", {"model": name}, told.images)
    page.family("deps_request_seconds", "histogram", "Time from a request's arrival to its answer.")
    for name, told in served:
        page.histogram("deps_request_seconds", {"model": name}, told.latency.bounds, told.latency)
    page.family("deps_queue_seconds", "histogram", "Of that, time from arrival to the start of the batch.")
    for name, told in served:
        page.histogram("deps_queue_seconds", {"model": name}, told.waiting.bounds, told.waiting)
    page.family("deps_subnet_requests_total", "counter", "Answered requests, by the subnet that answered.")
    for name, told in served:
        for (subnet, precision), count in sorted(told.subnets.items()):
            labels = {"model": name, "subnet": subnet, "precision": precision}
            page.sample("deps_subnet_requests_total", labels, count)


def _engines(page: _Page, repository: Repository) -> None:
    models = repository.models
    page.family("deps_model_loaded", "gauge", "Whether a model is loaded, 1 or 0.")
    for name, model in models.items():
        page.sample("deps_model_loaded", {"model": name}, int(model.loaded is not None))
    page.family("deps_model_swaps_total", "counter", "Bundles that took the place of another while serving.")
    for name, model in models.items():
        page.sample("deps_model_swaps_total", {"model": name}, model.swaps)
    page.family("deps_model_load_failures_total", "counter", "Bundles that could not be loaded.")
    for name, model in models.items():
        page.sample("deps_model_load_failures_total", {"model": name}, model.failures)
    page.family("deps_queue_images", "gauge", "Images that wait for an engine now.")
    for name, model in models.items():
        page.sample("deps_queue_images", {"model": name}, _waiting(model))
    page.family("deps_batch_images", "histogram", "Images in a batch, by the subnet that ran it.")
    batches = {name: model.batches() for name, model in models.items()}
    for name, by_subnet in batches.items():
        for subnet, counts in sorted(by_subnet.items()):
            told = Histogram(tuple(map(float, BATCH_BOUNDS)))
            for images, (ran, _) in counts.items():
                told.observe(images, ran)
            page.histogram("deps_batch_images", {"model": name, "subnet": subnet}, BATCH_BOUNDS, told)
    page.family("deps_engine_seconds_total", "counter", "Time that engines computed.")
    for name, by_subnet in batches.items():
        for subnet, counts in sorted(by_subnet.items()):
            busy_s = sum(seconds for _, seconds in counts.values())
            page.sample("deps_engine_seconds_total", {"model": name, "subnet": subnet}, busy_s)


def _waiting(model: Model) -> int:
    if model.loaded is None:
        return 0
    waiting: int = model.loaded.service.stats()["queue_images"]
    return waiting


def _process(page: _Page) -> None:
    """Write what Prometheus' own client libraries call the process metrics, as far as the system tells."""
    page.family("process_cpu_seconds_total", "counter", "Time on processors, of the user and the system.")
    page.sample("process_cpu_seconds_total", {}, time.process_time())
    page.family("process_start_time_seconds", "gauge", "Start of the process, seconds since 1970.")
    page.sample("process_start_time_seconds", {}, _STARTED)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return  # not Linux
    page.family("process_resident_memory_bytes", "gauge", "Resident memory.")
    page.sample("process_resident_memory_bytes", {}, pages * os.sysconf("SC_PAGE_SIZE"))
