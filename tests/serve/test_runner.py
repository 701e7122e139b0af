"""The engine thread: it batches what waits, never idles, bounds its queue, and answers whatever it accepted."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from deps.ground.errors import EngineError
from deps.serve.engines.onnxruntime import OnnxRuntimeEngine
from deps.serve.estimates import Estimates
from deps.serve.manifest import InputSpec, OutputSpec
from deps.serve.refusals import RefusedError
from deps.serve.runner import Runner
from deps.serve.scheduler import Ladder, Scheduler
from deps.serve.staging import Staging


class GatedEngine:
    """A real engine behind a gate, so that a test decides when a batch may run; records the batches."""

    def __init__(self, engine: OnnxRuntimeEngine) -> None:
        self._engine = engine
        self.name, self.subnet, self.precision = engine.name, engine.subnet, engine.precision
        self.max_batch, self.warm_up_batches = engine.max_batch, engine.warm_up_batches
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[int] = []
        self.failure: Exception | None = None
        self.is_closed = False

    def place(self, images: int) -> np.ndarray | None:
        return self._engine.place(images)

    def infer(self, batch_NCHW: np.ndarray) -> np.ndarray:
        self.batches.append(len(batch_NCHW))
        self.entered.set()
        assert self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        return self._engine.infer(batch_NCHW)

    def close(self) -> None:
        self.is_closed = True
        self._engine.close()


SPEC = InputSpec(shape=(1, 8, 8), color="L", mean=(0.0,), std=(1.0,))


@pytest.fixture
def engine(tiny) -> GatedEngine:
    real = OnnxRuntimeEngine(
        tiny.onnx_bytes(),
        subnet="large",
        precision="fp32",
        input_spec=SPEC,
        output_spec=OutputSpec(classes=10),
        max_batch=4,
        num_threads=1,
    )
    return GatedEngine(real)


def make_runner(engine: GatedEngine, *, max_queue_images: int = 8, **options) -> Runner:
    """A runner of one engine that is thought to take as long for many images as for one, so that joining pays."""
    curve = [0.0] + [0.001] * engine.max_batch
    scheduler = Scheduler(Estimates([curve]), Ladder((0,)), max_queue_images=max_queue_images)
    return Runner([engine], scheduler, Staging(SPEC), **options)


@pytest.fixture
def runner(engine: GatedEngine):
    runner = make_runner(engine)
    yield runner
    engine.gate.set()
    runner.close()


def _hold(engine: GatedEngine, runner: Runner, images: np.ndarray):
    """Occupy the engine with one image, so that whatever follows must wait."""
    engine.gate.clear()
    engine.entered.clear()
    first = runner.ask(images[:1])
    assert engine.entered.wait(10)
    return first


def test_idle_engine_runs_a_request_at_once(engine, runner, tiny, images):
    """No batching window: one request on an idle server waits for nothing."""
    logits_NV = runner.ask(images[:2]).result(10).logits
    np.testing.assert_allclose(logits_NV, tiny.logits(images[:2]), rtol=1e-4, atol=1e-4)
    assert engine.batches == [2]


def test_waiting_requests_are_joined_and_answered_each_with_its_own(engine, runner, tiny, images):
    """What waits becomes one batch, up to the largest, and the rows go back to who sent them."""
    first = _hold(engine, runner, images)
    waiting = [runner.ask(images[start:stop]) for start, stop in ((1, 3), (3, 5), (5, 6), (6, 7))]
    engine.gate.set()
    np.testing.assert_allclose(first.result(10).logits, tiny.logits(images[:1]), rtol=1e-4, atol=1e-4)
    joined_NV = np.concatenate([answer.result(10).logits for answer in waiting])
    np.testing.assert_allclose(joined_NV, tiny.logits(images[1:]), rtol=1e-4, atol=1e-4)
    assert engine.batches == [1, 4, 2]


def test_request_larger_than_a_batch_is_computed_in_parts(engine, runner, tiny, images):
    """A client need not know the engine's batch."""
    np.testing.assert_allclose(runner.ask(images).result(10).logits, tiny.logits(images), rtol=1e-4, atol=1e-4)
    assert engine.batches == [4, 3]


def test_full_queue_refuses_at_once_and_says_when_to_come_back(engine, runner, images):
    """Memory stays bounded under any load, and what was accepted is answered."""
    first = _hold(engine, runner, images)
    accepted = [runner.ask(images[:4]), runner.ask(images[:4])]
    with pytest.raises(RefusedError, match="8 images wait already; expected at most 8") as caught:
        runner.ask(images[:1])
    assert caught.value.status == 503
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s >= 1
    engine.gate.set()
    assert all(len(answer.result(10).logits) for answer in (first, *accepted))
    assert len(runner.ask(images[:1]).result(10).logits) == 1


def test_request_that_can_never_fit_is_the_clients_mistake(runner, images):
    """Trying again later would not help, so it is no 503."""
    with pytest.raises(RefusedError, match="holds 14 images; expected at most 8") as caught:
        runner.ask(np.concatenate([images, images]))
    assert caught.value.status == 400


def test_cancelled_request_costs_nothing(engine, runner, images):
    """A client that hung up while waiting must not occupy the engine."""
    _hold(engine, runner, images)
    gone, stays = runner.ask(images[:2]), runner.ask(images[:1])
    assert gone.cancel()
    engine.gate.set()
    assert len(stays.result(10).logits) == 1
    assert engine.batches == [1, 1]


def test_request_that_waited_too_long_is_refused_before_it_runs(engine, images):
    """An answer that comes too late is only load on those behind it."""
    now = [100.0]
    runner = make_runner(engine, clock=lambda: now[0])
    _hold(engine, runner, images)
    late, patient = runner.ask(images[:1], deadline=100.5), runner.ask(images[:1], deadline=105.0)
    now[0] = 101.0
    engine.gate.set()
    with pytest.raises(RefusedError, match="no answer was possible within"):
        late.result(10)
    assert len(patient.result(10).logits) == 1
    assert engine.batches == [1, 1]
    runner.close()


def test_failed_batch_fails_its_requests_and_no_others(engine, runner, images):
    """The thread outlives a failure of the engine."""
    engine.failure = EngineError("out of memory")
    with pytest.raises(EngineError, match="out of memory"):
        runner.ask(images[:1]).result(10)
    engine.failure = None
    assert len(runner.ask(images[:1]).result(10).logits) == 1


def test_closing_answers_what_was_accepted_and_refuses_the_rest(engine, images):
    """A drain loses nothing: every accepted request gets its answer, and new ones are told to go elsewhere."""
    runner = make_runner(engine, max_queue_images=256)
    _hold(engine, runner, images)
    waiting = [runner.ask(images[:3]) for _ in range(3)]
    closer = threading.Thread(target=runner.close)
    closer.start()
    while runner.is_accepting:
        time.sleep(0.001)
    with pytest.raises(RefusedError, match="shutting down") as caught:
        runner.ask(images[:1])
    assert caught.value.status == 503
    engine.gate.set()
    closer.join(10)
    assert [len(answer.result(0).logits) for answer in waiting] == [3, 3, 3]
    assert engine.is_closed


def test_many_clients_at_once_each_get_their_own_answer(engine, runner, tiny, images):
    """Rows must not be mixed up under real contention."""
    expected_NV = tiny.logits(images)
    wrong: list[int] = []

    def ask(start: int) -> None:
        for step in range(100):
            row = (start + step) % len(images)
            answer_NV = runner.ask(images[row : row + 1]).result(10).logits
            if not np.allclose(answer_NV[0], expected_NV[row], rtol=1e-4, atol=1e-4):
                wrong.append(row)

    clients = [threading.Thread(target=ask, args=(start,)) for start in range(6)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert not wrong
    assert sum(engine.batches) == 600
    assert max(engine.batches) > 1
