"""Batches are brought together in aligned memory, and pixels normalised as pictures are."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from deps.serve.manifest import InputSpec
from deps.serve.staging import ALIGNMENT, SmallPieces, Staging, aligned_bytes, is_ready

SPEC = InputSpec(shape=(3, 5, 7), color="RGB", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.mark.parametrize("cut", [0, 1, 131, 64])
def test_tensor_in_a_body_lies_at_a_cache_line(cut: int):
    """Whatever JSON comes before it."""
    memory = aligned_bytes(1000, cut=cut)
    assert memory.nbytes == 1000
    assert (memory.ctypes.data + cut) % ALIGNMENT == 0


def test_numbers_and_pixels_share_a_batch():
    """Clients of both kinds are joined; pixels become what the manifest says, as pictures do."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, 5, 7), dtype=np.uint8)
    numbers = rng.normal(size=(1, 3, 5, 7)).astype(np.float32)
    staging = Staging(SPEC)
    batch = staging.gather([pixels, numbers], staging.place(3))
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (SPEC.mean, SPEC.std))
    np.testing.assert_allclose(batch[:2], (pixels / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(batch[2:], numbers)
    assert is_ready(batch)
    assert batch.ctypes.data % ALIGNMENT == 0


def test_memory_is_kept_for_the_next_batch_and_not_shared_between_threads():
    """Two engine threads gather at the same time."""
    staging = Staging(SPEC)
    first = staging.place(4)
    assert np.shares_memory(first, staging.place(2))
    others: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: others.append(staging.place(4)))
    thread.start()
    thread.join()
    assert not np.shares_memory(first, others[0])


def test_only_plain_floats_can_be_read_in_place():
    """ONNX Runtime takes aligned, contiguous float32 without a copy, and nothing else."""
    assert is_ready(np.zeros((1, 3, 5, 7), np.float32))
    assert not is_ready(np.zeros((1, 3, 5, 7), np.uint8))
    assert not is_ready(np.zeros((2, 3, 5, 7), np.float32)[:, :, :, ::2])
    assert not is_ready(np.frombuffer(bytes(4 * 105 + 1), np.float32, offset=0, count=105)[::2])


def test_small_pieces_are_aligned_and_share_nothing():
    """Two requests in one piece of memory would be answered with each other's pixels."""
    pieces, taken = SmallPieces(), []
    block = SmallPieces.BLOCK_BYTES
    for size, cut in [(1, 0), (100, 37), (64, 64), (0, 0), (block, 5), (block - 64, 63)] * 3:
        piece = pieces.cut(size, cut=cut)
        assert len(piece) == size
        assert size <= cut or (np.frombuffer(piece, np.uint8).__array_interface__["data"][0] + cut) % ALIGNMENT == 0
        piece[:] = bytes([len(taken)]) * size
        taken.append(piece)
    for value, piece in enumerate(taken):
        assert bytes(piece) == bytes([value]) * len(piece)
