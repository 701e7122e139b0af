"""A large block that is freed and taken again is the same memory, and the system has no page of it to clear."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGES = 64 << 20 >> 12

PROGRAM = f"""
import ctypes, resource, sys
from deps.ground.allocator import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
print(keep_freed_memory() if sys.argv[1:] else None)
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc({PAGES} << 12)
    ctypes.memset(block, 1, {PAGES} << 12)
    libc.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*words: str, **environment: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_large_block_is_cleared_once_and_then_kept():
    changed, first, *later = faults("keep")
    assert changed == "True"
    assert int(first) > 0.9 * PAGES
    assert max(map(int, later)) < 0.01 * PAGES
    _, *usual = faults()
    assert min(map(int, usual)) > 0.9 * PAGES, "without it every turn pays, or this test shows nothing"


def test_what_the_user_told_the_allocator_stands():
    changed, *_ = faults("keep", MALLOC_MMAP_MAX_="65536")
    assert changed == "False"
