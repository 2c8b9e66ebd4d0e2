"""Kernels that reach beyond 2^31 elements, where offsets of 32 bits end.

The tensors are reserved and not held: only the pages that are touched take memory.
"""

import mmap

import numpy as np
import torch

from ridgeline.kernels.cuda.attention import Partials, attend
from ridgeline.kernels.cuda.penalties import count_drawn, fill_counts, penalise
from ridgeline.kernels.cuda.plan import DevicePlan, Work
from ridgeline.kernels.cuda.rotary import rotary_table, rotate_and_store
from ridgeline.kernels.cuda.sampling import DrawSettings, draw
from ridgeline.kernels.cuda.units import decode_units
from ridgeline.kernels.interface import AttentionSpec, KVShape

LARGEST = 2**31
NO_RESERVE = 0x4000
"""MAP_NORESERVE of Linux."""


def reserved(elements: int, dtype: torch.dtype) -> torch.Tensor:
    """Zeros, as long as nobody writes."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    return torch.frombuffer(mmap.mmap(-1, elements * dtype.itemsize, flags=flags), dtype=dtype)


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_blocks_at_the_end_of_a_large_pool() -> None:
    """One sequence in the first blocks, the same again in the last: both attend to the same."""
    heads, kv_heads, head_dim, size = 2, 1, 64, 16
    block_elements = 8 * 2 * kv_heads * size * head_dim  # of eight layers, this is the last
    blocks = LARGEST // block_elements + 3
    pool = reserved(blocks * block_elements, torch.float16).view(blocks, 8, 2, kv_heads, size, head_dim)[:, 7]
    spec = AttentionSpec(KVShape(8, kv_heads, head_dim, blocks, size, torch.float16), heads, 64, (0.1,) * 32)
    device = torch.device("cpu")
    rotary = rotary_table(spec.inverse_frequencies, 64, device)
    tables = torch.stack([ints(0, 1), ints(blocks - 2, blocks - 1)])
    partials = Partials(spec, 8, device)
    generator = torch.Generator().manual_seed(0)
    for position in range(20):
        row = torch.randn(1, (heads + 2 * kv_heads) * head_dim, generator=generator).to(torch.float16)
        qkv = row.repeat(2, 1)
        units = decode_units(np.array([position + 1] * 2), np.array([0, 1]), tiles=2, capacity=4, align=16)
        work = Work(torch.from_numpy(units.units), torch.from_numpy(units.tiles), 1, merges=True)
        plan = DevicePlan(ints(position, position), ints(0, 1), tables, (work,))
        rotate_and_store(qkv, None, 1e-6, rotary, plan, pool, heads)
        attended = attend(qkv, pool, plan, heads, None, partials)
        assert torch.equal(attended[0], attended[1])
    assert attended.isfinite().all() and attended.any()
    assert torch.equal(pool[blocks - 2 :], pool[:2]) and not pool[2:4].any()


def test_logits_and_counts_of_many_rows() -> None:
    """Rows so far apart as those of thousands of sequences with a large vocabulary."""
    vocab, slots, rows = 4096, LARGEST // 4096 + 2, 4
    apart = LARGEST // (rows - 1) + 1
    logits = reserved(LARGEST + 2 * vocab, torch.float32).as_strided((rows, vocab), (apart, 1))
    logits[:, 7], logits[3, 9] = 1.0, 3.0
    counts = reserved(slots * vocab, torch.int32).view(slots, vocab)
    fill_counts(counts, slots - 1, torch.tensor([9]), torch.tensor([], dtype=torch.int64))
    count_drawn(counts, ints(slots - 1), ints(9))
    assert counts[slots - 1, 9] == 3 and not counts[0].any()
    one = torch.ones(1)
    penalise(logits, ints(3), ints(slots - 1), 2 * one, 1.5 * one, 0 * one, counts)
    assert logits[3, 9] == 0.0 and (logits[:, 7] == 1.0).all()
    off = torch.zeros(rows)
    settings = DrawSettings(off, off.int(), off + 1, off, off, ints(3, 2, 1, 0))
    logits[3, 4000] = 2.0
    drawn = ints(-5, -5, -5, -5)
    assert draw(logits, settings, drawn).tolist() == [7, 7, 7, 4000]
    assert drawn.tolist() == [4000, 7, 7, 7]
