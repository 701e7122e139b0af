"""A family behind one queue: every subnet is loaded, and a request's time and wishes decide which one answers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deps.ground.errors import BundleError
from deps.serve import runner
from deps.serve.bundle import read_bundle
from deps.serve.manifest import write_manifest
from deps.serve.refusals import RefusedError
from deps.serve.service import ServeOptions, Service


@pytest.fixture(scope="module")
def service(make_bundle) -> Iterator[Service]:
    opened = Service.open(make_bundle(), ServeOptions(num_threads=1, max_batch=4))
    yield opened
    opened.close()


def ask(service: Service, images: np.ndarray, **options):
    return asyncio.run(service.infer(images, **options))


def test_every_subnet_is_loaded_and_the_most_accurate_answers(service: Service, tiny, images):
    """Without a deadline time does not matter."""
    assert [member.name for member in service.subnets] == ["large", "small"]
    answer = ask(service, images[:2])
    assert answer.by.subnet == service.by.subnet == "large"
    np.testing.assert_allclose(answer.logits, tiny.logits(images[:2]), rtol=1e-4, atol=1e-4)
    assert answer.batch == 2
    assert answer.compute_s > 0


def test_request_may_name_its_subnet(service: Service, tiny_small, images):
    """And is told when there is none of that name."""
    answer = ask(service, images[:1], subnet="small")
    assert answer.by.subnet == "small"
    np.testing.assert_allclose(answer.logits, tiny_small.logits(images[:1]), rtol=1e-4, atol=1e-4)
    with pytest.raises(RefusedError, match="no subnet 'medium' here; expected one of large, small") as caught:
        ask(service, images[:1], subnet="medium")
    assert caught.value.status == 404


def test_pixels_are_normalised_as_pictures_are(service: Service, tiny, tiny_small):
    """Raw pixels quarter what a client sends, and give the same answer."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    answer = ask(service, pixels)
    np.testing.assert_allclose(answer.logits, tiny.logits((pixels / 255 - 0.5) / 0.25), rtol=1e-4, atol=1e-4)


def test_deadline_that_nothing_can_meet_is_refused(service: Service, images):
    """At once, and counted; a generous one is met."""
    before = service.stats()["refused"]
    with pytest.raises(RefusedError, match="no subnet can answer") as caught:
        ask(service, images[:1], timeout_s=1e-6)
    assert caught.value.status == 503
    assert service.stats()["refused"] == before + 1
    assert ask(service, images[:1], timeout_s=20).logits.shape == (1, 10)


def test_server_may_set_a_deadline_for_those_who_bring_none(make_bundle, images):
    """``--deadline``; it is counted from the arrival, which may be long ago."""
    service = Service.open(make_bundle(), ServeOptions(num_threads=1, deadline_s=5.0))
    try:
        assert ask(service, images[:1]).logits.shape == (1, 10)
        with pytest.raises(RefusedError, match="no subnet can answer"):
            ask(service, images[:1], arrival=service._runner.now() - 6)
    finally:
        service.close()


def test_pinned_service_loads_one_subnet_only(make_bundle, images):
    """``--subnet``."""
    with pytest.raises(BundleError, match="has no subnet 'medium'"):
        Service.open(make_bundle(), ServeOptions(subnet="medium"))
    service = Service.open(make_bundle(), ServeOptions(subnet="small", num_threads=1))
    assert [member.name for member in service.subnets] == ["small"]
    assert ask(service, images[:1]).by.subnet == "small"
    service.close()


def test_times_in_the_bundle_give_the_curve_its_shape(make_bundle):
    """What one image takes is measured here; how a batch grows is the model's own, and saves the start time."""
    folder: Path = make_bundle()
    manifest = read_bundle(folder).manifest
    first = manifest.subnets[0]
    file = replace(first.models[0], batch_ms={"cpu": {"1": 2.0, "2": 2.0, "4": 6.0}})
    write_manifest(folder, replace(manifest, subnets=(replace(first, models=(file,)), *manifest.subnets[1:])))
    service = Service.open(folder, ServeOptions(num_threads=1, max_batch=4))
    told = service.stats()["subnets"][0]["estimate_ms"]
    service.close()
    assert told[2] == pytest.approx(told[1])
    assert told[4] == pytest.approx(3 * told[1])


def test_counts_tell_who_did_what(service: Service, images):
    """Statistics and metrics are written from them; what was run to learn times is nobody's request."""
    before = {told["subnet"]: told for told in service.stats()["subnets"]}
    heard: list[tuple[str, int]] = []
    service.on_batch(lambda subnet, count, _: heard.append((subnet, count)))
    ask(service, images[:3], subnet="small")
    after = {told["subnet"]: told for told in service.stats()["subnets"]}
    assert after["small"]["images"] - before["small"]["images"] == 3
    assert after["small"]["requests"] - before["small"]["requests"] == 1
    assert after["large"]["images"] == before["large"]["images"]
    assert after["small"]["batches"][3][0] == before["small"]["batches"].get(3, (0, 0))[0] + 1
    assert service.stats()["queue_images"] == 0
    until = time.monotonic() + 5
    while not heard and time.monotonic() < until:  # who listens is told after the answer has gone
        time.sleep(0.001)
    assert heard == [("small", 3)]


def test_cancelled_request_leaves_the_queue(service: Service, images, monkeypatch):
    """Its batch did not begin, so it costs nothing."""
    monkeypatch.setattr(runner, "LEND_S", 0.0)  # the event loop is not to wait at the gate
    engine, gate = service.subnets[0].engine, threading.Event()
    infer = engine.infer

    def gated(batch_NCHW: np.ndarray) -> np.ndarray:
        assert gate.wait(20)
        return infer(batch_NCHW)

    async def scene() -> None:
        first = asyncio.ensure_future(service.infer(images[:1]))
        while service._runner.waiting_images or first.done():
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(service.infer(images[:2]))
        while service._runner.waiting_images != 2:
            await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert service._runner.waiting_images == 0
        gate.set()
        await first

    engine.infer = gated
    try:
        asyncio.run(scene())
    finally:
        gate.set()
        engine.infer = infer


def test_close_waits_for_whoever_holds_a_lease(make_bundle, images):
    """A request that found the service before it was replaced is answered by it."""
    service = Service.open(make_bundle(), ServeOptions(num_threads=1))
    closer = threading.Thread(target=service.close)
    with service.lease():
        closer.start()
        while service.is_ready:
            pass
        assert ask(service, images[:1]).logits.shape == (1, 10)
        assert closer.is_alive()
    closer.join(10)
    with pytest.raises(RefusedError, match="shutting down"):
        ask(service, images[:1])


def test_short_batch_runs_where_it_is_asked_for(service: Service, images):
    """Waking a thread takes longer; requests of one round of the loop share the batch all the same."""
    engine, threads = service.subnets[0].engine, []
    infer = engine.infer

    def noted(batch_NCHW: np.ndarray) -> np.ndarray:
        threads.append((threading.get_ident(), len(batch_NCHW)))
        return infer(batch_NCHW)

    async def scene() -> None:
        answers = await asyncio.gather(*(service.infer(images[row : row + 1]) for row in range(3)))
        assert [answer.batch for answer in answers] == [3, 3, 3]
        assert (await service.infer(images[:2])).batch == 2

    engine.infer = noted
    try:
        asyncio.run(scene())
    finally:
        engine.infer = infer
    assert threads == [(threading.get_ident(), 3), (threading.get_ident(), 2)]


def test_long_batch_leaves_the_loop_free(service: Service, images, monkeypatch):
    """Other connections are read, refused and answered meanwhile."""
    monkeypatch.setattr(runner, "LEND_S", 1e-7)  # what this engine does takes longer
    engine, threads = service.subnets[0].engine, []
    infer = engine.infer

    def noted(batch_NCHW: np.ndarray) -> np.ndarray:
        threads.append(threading.get_ident())
        return infer(batch_NCHW)

    engine.infer = noted
    try:
        ask(service, images[:1])
    finally:
        engine.infer = infer
    assert len(threads) == 1
    assert threads != [threading.get_ident()]


def test_short_batches_that_wait_for_one_another_stay_on_the_loop(make_bundle, images):
    """To wake a thread for what one round brought too much of costs more than the batches."""
    options = ServeOptions(num_threads=1, max_batch=2)
    with contextlib.closing(Service.open(make_bundle(), options)) as service:
        engine, threads = service.subnets[0].engine, []
        infer = engine.infer

        def noted(batch_NCHW: np.ndarray) -> np.ndarray:
            threads.append(threading.get_ident())
            return infer(batch_NCHW)

        async def scene() -> list[int]:
            return [one.batch for one in await asyncio.gather(*(service.infer(images[:1]) for _ in range(7)))]

        engine.infer = noted
        batches = asyncio.run(scene())
        engine.infer = infer
    assert max(batches) <= 2
    assert set(threads) == {threading.get_ident()}
    assert len(threads) >= 4


def test_round_that_brings_more_than_an_instant_is_left_to_the_thread(service: Service, images, monkeypatch):
    """One request alone is run on the loop; a queue of them would keep it from reading."""
    engine, threads = service.subnets[0].engine, []
    infer = engine.infer
    estimates = service._runner.scheduler.estimates
    monkeypatch.setattr(estimates, "usual_seconds", lambda _, images, __: 1e-3 * images)
    monkeypatch.setattr(estimates, "best", [8] * len(estimates.best))

    def noted(batch_NCHW: np.ndarray) -> np.ndarray:
        threads.append((threading.get_ident(), len(batch_NCHW)))
        return infer(batch_NCHW)

    async def scene() -> None:
        await service.infer(images[:1])
        await asyncio.gather(*(service.infer(images[row : row + 1]) for row in range(4)))

    engine.infer = noted
    try:
        asyncio.run(scene())
    finally:
        engine.infer = infer
    assert threads[0] == (threading.get_ident(), 1)
    assert sum(count for _, count in threads[1:]) == 4
    assert threading.get_ident() not in [thread for thread, _ in threads[1:]]
