"""The public page of the folder: what stands on it, and how much of it a device can read without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import deps.supernet

WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision", "safetensors", "onnx"):
    sys.modules[name] = None
from deps.supernet import ArchSpec, SearchSpace, get_space, space_names
from deps.supernet.plan import plan
from deps.supernet.sampling import random_archs
import numpy
for name in space_names():
    space = get_space(name)
    assert SearchSpace.from_dict(space.to_dict()) == space
    for arch in random_archs(space, 3, numpy.random.default_rng(0)):
        assert ArchSpec.from_dict(space, arch.to_dict()) == arch
        assert sum(piece.macs for piece in plan(space, arch).pieces()) > 0
import deps.supernet
try:
    deps.supernet.Supernet
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def test_spaces_and_architectures_are_read_without_torch():
    """A Jetson has numpy and a runtime; what names, plans and counts a subnet must work there."""
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, timeout=100, check=True
    )
    assert result.stdout == (
        "MissingExtraError: torch is not installed; install it with: pip install 'deps-ofa[compile]'\n"
    )


def test_every_public_name_is_there():
    assert all(hasattr(deps.supernet, name) for name in deps.supernet.__all__)
    assert {"ArchSpec", "SearchSpace", "Supernet", "get_space", "recalibrate_bn"} <= set(deps.supernet.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Supernets'"):
        deps.supernet.Supernets  # noqa: B018
