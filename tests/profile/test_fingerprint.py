"""A fingerprint says what is known of the device, and nothing that is not."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from deps.profile.fingerprint import gpu, processor, state


def test_processor_is_named_and_stays() -> None:
    """Two tables are compared by these facts, so they must not change from call to call."""
    facts = processor()
    assert facts["cpu"]
    assert facts["cores"] == os.cpu_count()
    assert facts == processor()
    json.dumps(facts)


def test_state_tells_the_load() -> None:
    """What changes stands beside the table, not in what identifies the device."""
    facts = state()
    assert len(facts["load"]) == 3
    assert not set(facts) & set(processor())
    json.dumps(facts)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has nvidia-smi")
def test_no_gpu_is_not_guessed() -> None:
    """An absent tool leaves its facts out."""
    assert gpu() == {}
