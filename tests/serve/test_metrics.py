"""Metrics: Prometheus' own parser reads them, and they count what happened."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deps.serve.service import ServeOptions
from deps.serve.statistics import LATENCY_BUCKETS_S, Histogram, ModelStatistics
from running import Running, running


@pytest.fixture(scope="module")
def server(make_bundle: Callable[..., Path]) -> Iterator[Running]:
    options = ServeOptions(subnet="large", max_batch=4, num_threads=1)
    with running(make_bundle(), make_bundle(name="second"), options=options) as server:
        yield server


def _scrape(client: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample by name and labels, after checking the rules of the format."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, "a sample stands twice"
            samples[key] = sample.value
            assert sample.name.startswith(family.name)
            if family.type == "counter":
                assert sample.name.endswith("_total")
    return samples


def _infer(images: np.ndarray) -> dict:
    tensor = {"name": "input", "shape": list(images.shape), "datatype": "FP32", "data": images.ravel().tolist()}
    return {"inputs": [tensor]}


def test_what_was_asked_is_counted(server: Running, images):
    """Answered, refused by status, images, times, batches, and who answered."""
    before = _scrape(server.client)
    for rows in (1, 2, 3):
        assert server.client.post("/v2/models/tiny/infer", json=_infer(images[:rows])).status_code == 200
    assert server.client.post("/v2/models/tiny/infer", json={}).status_code == 400
    bomb = {"content": gzip.compress(bytes(300_000)), "headers": {"Content-Encoding": "gzip"}}
    assert server.client.post("/v2/models/tiny/infer", **bomb).status_code == 413
    assert server.client.post("/v2/models/tiny/classify", content=b"x").status_code == 415
    headers = {"Deps-Timeout-Ms": "0.001"}
    assert server.client.post("/v2/models/tiny/infer", json=_infer(images), headers=headers).status_code == 503
    after = _scrape(server.client)

    def grown(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0.0)

    assert grown("deps_requests_total", model="tiny", outcome="answered") == 3
    assert grown("deps_requests_total", model="tiny", outcome="refused") == 4
    assert grown("deps_requests_total", model="second", outcome="answered") == 0
    for status in ("400", "413", "415", "503"):
        assert grown("deps_refusals_total", model="tiny", status=status) == 1
    assert grown("deps_images_total", model="tiny") == 6
    assert grown("deps_subnet_requests_total", model="tiny", subnet="large", precision="fp32") == 3
    assert grown("deps_request_seconds_count", model="tiny") == 3
    assert grown("deps_queue_seconds_bucket", model="tiny", le="+Inf") == 3
    assert grown("deps_batch_images_count", model="tiny", subnet="large") == 3
    assert grown("deps_batch_images_sum", model="tiny", subnet="large") == 6
    assert grown("deps_batch_images_bucket", model="tiny", subnet="large", le="2") == 2
    assert grown("deps_engine_seconds_total", model="tiny", subnet="large") > 0
    assert after["deps_queue_images", (("model", "tiny"),)] == 0
    assert after["deps_model_loaded", (("model", "second"),)] == 1
    assert after["process_resident_memory_bytes", ()] > 1e6


def test_buckets_only_grow_and_end_in_the_count(server: Running, images):
    """What a histogram must be, or quantiles are nonsense."""
    server.client.post("/v2/models/second/infer", json=_infer(images))
    samples = _scrape(server.client)
    found = [
        (float(dict(labels)["le"]), value)
        for (name, labels), value in samples.items()
        if name == "deps_request_seconds_bucket" and dict(labels)["model"] == "second"
    ]
    assert [bound for bound, _ in found] == [*LATENCY_BUCKETS_S, float("inf")]
    values = [value for _, value in found]
    assert values == sorted(values)
    assert values[-1] == samples["deps_request_seconds_count", (("model", "second"),)]


def test_picture_counts_as_a_request(server: Running):
    """Both ways of asking are in one account."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (8, 8), 7).save(stream, "PNG")
    key = ("deps_requests_total", (("model", "tiny"), ("outcome", "answered")))
    before = _scrape(server.client)[key]
    kind = {"Content-Type": "image/png"}
    server.client.post("/v2/models/tiny/classify", content=stream.getvalue(), headers=kind)
    assert _scrape(server.client)[key] == before + 1


def test_bound_of_a_bucket_lies_in_it():
    """``le`` means less or equal."""
    told = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        told.observe(value)
    assert told.counts == [2, 2, 1]
    assert told.sum == 14.0


def test_statistics_are_shaped_as_tritons():
    """perf_analyzer reads these keys, and nothing tells it when one is missing."""
    told = ModelStatistics(now=lambda: 12.5)
    told.answered(images=3, seconds=0.01, queue_s=0.002, compute_s=0.004, subnet="a", precision="fp32")
    told.refused(400, 0.001)
    told.broke(0.001)
    plain = told.to_dict("tiny", "1", {3: (1, 0.004), 1: (2, 0.001)})
    assert (plain["last_inference"], plain["inference_count"], plain["execution_count"]) == (12500, 3, 3)
    assert plain["inference_stats"]["success"] == {"count": 1, "ns": 10_000_000}
    assert plain["inference_stats"]["fail"] == {"count": 2, "ns": 2_000_000}
    assert plain["inference_stats"]["queue"] == {"count": 1, "ns": 2_000_000}
    assert plain["inference_stats"]["compute_infer"] == {"count": 1, "ns": 4_000_000}
    assert [entry["batch_size"] for entry in plain["batch_stats"]] == [1, 3]
    assert plain["batch_stats"][1]["compute_infer"] == {"count": 1, "ns": 4_000_000}
