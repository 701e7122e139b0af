"""The rules of the queue, in a time that the tests set: who is let in, who goes first, which subnet, and with whom."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deps.serve.estimates import Estimates
from deps.serve.jobs import Job
from deps.serve.refusals import RefusedError
from deps.serve.scheduler import Ladder, Scheduler

ONE = np.zeros((1, 1, 1, 1), np.float32)

# Seconds by images: the accurate engine takes 30 ms an image, the other 10; batches of four cost no more than two.
ACCURATE, QUICK = [0.0, 0.030, 0.040, 0.040, 0.040], [0.0, 0.010, 0.014, 0.014, 0.014]
SPREAD = 1.1


def ignore(_: list[Job]) -> None:
    """Outcomes are not looked at here."""


def job(arrival: float = 0.0, deadline: float = math.inf, *, size: int = 1, pin: int | None = None) -> Job:
    images = np.broadcast_to(ONE, (size, 1, 1, 1))
    return Job(images=images, size=size, arrival=arrival, settle=ignore, deadline=deadline, pin=pin)


def family(**options) -> Scheduler:
    return Scheduler(Estimates([ACCURATE, QUICK]), Ladder.of([0.8, 0.7], [0.030, 0.010]), **options)


def test_ladder_leaves_out_who_is_slower_and_no_better():
    """Such a subnet never answers best; it can still be asked for by name."""
    assert Ladder.of([0.7, 0.8, 0.75, 0.6], [1.0, 2.0, 3.0, 0.5]).rungs == (1, 0, 3)
    assert Ladder.of([0.7, 0.7], [2.0, 1.0]).rungs == (1,)


def test_without_deadlines_the_most_accurate_answers():
    """Time does not matter then."""
    scheduler = family()
    for _ in range(4):
        scheduler.admit(job(), 0.0)
    batch = scheduler.take(0.0)
    assert (batch.engine, batch.images) == (0, 4)


def test_subnet_is_the_most_accurate_that_keeps_all_in_time():
    """One patient request gets the accurate subnet; a queue that it could not serve in time gets the quick one."""
    calm, busy = family(), family()
    calm.admit(job(deadline=0.2), 0.0)
    for _ in range(12):
        busy.admit(job(deadline=0.2), 0.0)
    assert calm.take(0.0).engine == 0
    assert busy.take(0.0).engine == 1


def test_earliest_deadline_goes_first():
    """Not who came first."""
    scheduler = Scheduler(Estimates([[0.0, 0.01]]), Ladder((0,)))
    late, soon = job(deadline=0.9), job(deadline=0.3)
    for one in (late, soon):
        scheduler.admit(one, 0.0)
    assert [scheduler.take(0.0).jobs, scheduler.take(0.0).jobs] == [[soon], [late]]


def test_batch_does_not_grow_beyond_what_its_first_can_wait_for():
    """Company that makes the first late is no gain."""
    scheduler = Scheduler(Estimates([[0.0, 0.010, 0.011, 0.030, 0.030, 0.030, 0.030, 0.030]]), Ladder((0,)))
    for _ in range(5):
        scheduler.admit(job(deadline=0.070), 0.0)
    assert scheduler.take(0.050).images == 2


def test_what_no_subnet_can_answer_is_refused_at_once():
    """With the status and the header that tell a client what to do."""
    scheduler = family()
    with pytest.raises(RefusedError, match=r"no subnet can answer in 5 ms, 11 ms is the soonest") as caught:
        scheduler.admit(job(deadline=0.005), 0.0)
    assert (caught.value.status, caught.value.retry_after_s) == (503, 1)
    assert len(scheduler) == 0


def test_newcomer_must_not_make_those_who_wait_late():
    """What was let in was promised an answer."""
    scheduler = Scheduler(Estimates([[0.0, 0.010]]), Ladder((0,)))
    for _ in range(8):
        scheduler.admit(job(deadline=0.09), 0.0)
    with pytest.raises(RefusedError, match="accepted before would be late"):
        scheduler.admit(job(deadline=0.05), 0.0)
    scheduler.admit(job(deadline=0.5), 0.0)


def test_late_job_is_dropped_before_it_runs():
    """It would only make others late."""
    scheduler = Scheduler(Estimates([[0.0, 0.010]]), Ladder((0,)))
    late, fine = job(deadline=0.050), job(deadline=0.5)
    for one in (late, fine):
        scheduler.admit(one, 0.0)
    assert scheduler.drop_late(0.045) == [late]
    assert scheduler.take(0.045).jobs == [fine]
    assert scheduler.waiting_images == 0


def test_pinned_job_waits_for_its_engine_and_others_pass():
    """A request may name the subnet that shall answer."""
    scheduler = family()
    pinned, free = job(deadline=0.4, pin=0), job(deadline=0.3, pin=1)
    for one in (pinned, free):
        scheduler.admit(one, 0.0)
    assert scheduler.take(0.0) == (1, [free], 1, pytest.approx(0.010 * SPREAD))
    assert scheduler.take(0.0).engine == 0


def test_cancelled_job_leaves_the_queue_at_once():
    """Its place is somebody else's."""
    scheduler = family(max_queue_images=2)
    gone = job(size=2)
    scheduler.admit(gone, 0.0)
    scheduler.cancel(gone)
    scheduler.admit(job(size=2), 0.0)
    assert len(scheduler) == 1
    scheduler.cancel(gone)
    assert scheduler.waiting_images == 2


def test_idle_engine_is_looked_at_again_after_it_refused():
    """One slow moment at the start must not refuse everybody for ever."""
    scheduler = Scheduler(Estimates([[0.0, 5.0]]), Ladder((0,)))
    assert scheduler.probe(0.0) is None
    with pytest.raises(RefusedError):
        scheduler.admit(job(deadline=0.1), 0.0)
    for step in range(40):
        now = 0.2 * step
        if scheduler.probe(now) is not None:
            scheduler.estimates.observe(0, 1, 0.01, now)
        try:
            scheduler.admit(job(arrival=now, deadline=now + 0.1), now)
        except RefusedError:
            continue
        break
    assert len(scheduler) == 1


class Replay:
    """Workers that take exactly what is expected, and a count of who was answered in time."""

    def __init__(self, scheduler: Scheduler, workers: int = 1) -> None:
        self.scheduler = scheduler
        self.free = [0.0] * workers
        self.let_in = self.in_time = self.answered = 0

    def run_until(self, now: float) -> None:
        """Let the workers take what waits, each when it is free, up to this moment."""
        while len(self.scheduler):
            worker = min(range(len(self.free)), key=self.free.__getitem__)
            if self.free[worker] > now:
                return
            batch = self.scheduler.take(self.free[worker], worker)
            assert batch is not None
            self.free[worker] = batch.until
            self.answered += len(batch.jobs)
            self.in_time += sum(batch.until <= one.deadline + 1e-9 for one in batch.jobs)
        self.free = [max(now, one) for one in self.free]

    def ask(self, one: Job) -> None:
        """Let a request arrive."""
        self.run_until(one.arrival)
        with contextlib.suppress(RefusedError):
            self.scheduler.admit(one, one.arrival)
            self.let_in += 1


@settings(max_examples=60)
@given(data=st.data(), workers=st.integers(1, 2))
def test_whatever_was_let_in_is_answered_in_time_if_batches_take_what_is_expected(data: st.DataObject, workers: int):
    """The promise of admission, for any arrivals, deadlines, sizes and pins."""
    replay = Replay(family(max_queue_images=64, workers=workers), workers)
    now = 0.0
    for _ in range(data.draw(st.integers(1, 40))):
        now += data.draw(st.floats(0, 0.03))
        wait_s = data.draw(st.sampled_from([0.02, 0.1, 0.3, math.inf]))
        size, pin = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([None, None, 0, 1]))
        replay.ask(job(arrival=now, deadline=now + wait_s, size=size, pin=pin))
    replay.run_until(math.inf)
    assert replay.answered == replay.in_time == replay.let_in
    assert replay.scheduler.waiting_images == 0


@pytest.mark.parametrize("wait_s", [0.05, 0.1, 0.5])
def test_too_much_load_is_answered_in_full_batches(wait_s: float):
    """Those let in at the last moment must not break the batches up: then the throughput would be a fraction."""
    scheduler = family()
    capacity = 4 / (QUICK[4] * SPREAD)
    replay, rng, now = Replay(scheduler), np.random.default_rng(0), 0.0
    while now < 20:
        now += rng.exponential(1 / (3 * capacity))
        replay.ask(job(arrival=now, deadline=now + wait_s))
    replay.run_until(math.inf)
    assert replay.in_time == replay.let_in
    assert replay.in_time >= 0.95 * capacity * 20


def test_sizes_are_tried_only_while_nobody_has_a_deadline():
    """A trial may cost time; requests that could be met do not pay for it."""
    patient, hurried = (Scheduler(Estimates([[0.0, 0.010, 0.030, 0.050, 0.070]]), Ladder((0,))) for _ in range(2))
    taken: dict[Scheduler, set[int]] = {patient: set(), hurried: set()}
    for scheduler, deadline in ((patient, math.inf), (hurried, 10.0)):
        for _ in range(100):
            while len(scheduler) < 8:
                scheduler.admit(job(deadline=deadline), 0.0)
            batch = scheduler.take(0.0)
            scheduler.finished(0, 0.0)
            scheduler.estimates.observe(0, batch.images, [0.0, 0.010, 0.030, 0.050, 0.070][batch.images], 0.0)
            taken[scheduler].add(batch.images)
    assert taken[patient] == {1, 2, 4}
    assert taken[hurried] == {1}
