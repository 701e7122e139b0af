"""A family's first times: what the start measures of batches, before anybody has asked for one."""

from __future__ import annotations

import pytest

from deps.serve.bundle import Bundle
from deps.serve.estimates import best_batch
from deps.serve.family import EngineOptions, first_curve, open_family


@pytest.mark.parametrize(("one_s", "largest"), [(0.0001, 8), (0.002, 8), (0.004, 4), (0.1, 4)])
def test_batch_is_timed_once_its_memory_is_there(bundle: Bundle, one_s: float, largest: int):
    """Else larger batches look slower than they are, are never run, and the mistake is never seen."""
    (member,) = open_family(bundle, EngineOptions(subnet="small", num_threads=1, max_batch=8))
    memory, ran = 0, []

    def timed(images: int) -> float:
        nonlocal memory
        cold_s, memory = max(0, images - memory) * one_s, max(memory, images)
        ran.append(images)
        return cold_s + one_s * (0.8 * images + 0.2)

    curve = first_curve(member, timed, budget_s=0.1)
    member.engine.close()
    assert curve[: largest + 1] == pytest.approx([0, *(one_s * (0.8 * n + 0.2) for n in range(1, largest + 1))])
    assert len(curve) == 9
    assert max(ran) == largest
    assert best_batch(curve) > 2
