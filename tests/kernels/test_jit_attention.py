"""Attention of a compiled step against plain float64, over K and V as float16 stores them.

What comes out may differ by 5e-6 of the largest output from the exact attention over K and V as they
are stored: sums in float32, and an exponential that is within 1e-6.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit

from ridgeline.kernels.jit import attention

Floats = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

NAN = 0x7E00
BOUND = 5e-6
GUARD_BYTES = 64
NORM_EPS = 1e-5


@dataclass
class Case:
    """Sequences of one step: the last `tokens[i]` of `contexts[i]` positions are new."""

    heads: int
    kv_heads: int
    head_dim: int
    contexts: list[int]
    tokens: list[int]
    norms: Floats | None = None
    window: int = 0
    layer: int = 1
    layers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        rows = sum(self.tokens)
        self.width = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = random.standard_normal((rows, self.width)).astype(np.float32)
        blocks = [-(-context // 16) for context in self.contexts]
        ids = random.permutation(sum(blocks) + 3)
        bounds = np.cumsum([0, *blocks])
        self.tables = [ids[a:b].astype(np.int64) for a, b in pairwise(bounds)]
        self.pool = np.full(
            (len(ids), self.layers, 2, self.kv_heads, 16 * self.head_dim), NAN, dtype=np.uint16
        )
        # Positions before the first new token, as another step has left them.
        self.stored = [
            random.standard_normal((context, 2, self.kv_heads, self.head_dim)).astype(np.float16)
            for context in self.contexts
        ]
        for table, stored, new in zip(self.tables, self.stored, self.tokens, strict=True):
            for position in range(len(stored) - new):
                self._store(table, position, stored[position])
        self.positions = np.concatenate(
            [np.arange(c - n, c) for c, n in zip(self.contexts, self.tokens, strict=True)]
        )
        self.write_blocks = np.concatenate(
            [
                table[np.arange(c - n, c) // 16]
                for table, c, n in zip(self.tables, self.contexts, self.tokens, strict=True)
            ]
        )
        angles = random.uniform(0, 6, (max(self.contexts), self.head_dim // 2))
        self.rotations = np.concatenate((np.cos(angles), np.sin(angles)), 1).astype(np.float32)

    def _store(self, table: Integers, position: int, key_value: npt.NDArray[np.float16]) -> None:
        bits, offset = key_value.view(np.uint16), position % 16
        block = self.pool[table[position // 16], self.layer]
        block[0].reshape(self.kv_heads, self.head_dim, 16)[:, :, offset] = bits[0]
        block[1].reshape(self.kv_heads, 16, self.head_dim)[:, offset] = bits[1]

    def read(self, pool: npt.NDArray[np.uint16]) -> list[npt.NDArray[np.float16]]:
        """K and V of each sequence as they are stored, [positions, 2, kv_heads, head_dim]."""
        found = []
        for table, context in zip(self.tables, self.contexts, strict=True):
            blocks = pool[table, self.layer].view(np.float16)
            keys = blocks[:, 0].reshape(-1, self.kv_heads, self.head_dim, 16).transpose(0, 3, 1, 2)
            values = blocks[:, 1].reshape(-1, self.kv_heads, 16, self.head_dim).transpose(0, 2, 1, 3)
            both = [x.reshape(-1, self.kv_heads, self.head_dim)[:context] for x in (keys, values)]
            found.append(np.stack(both, 1))
        return found

    def heads_in_place(self) -> Wide:
        """Normed and rotated, [tokens, heads + 2 * kv_heads, head_dim]."""
        heads = self.qkv.astype(np.float64).reshape(len(self.qkv), -1, self.head_dim)
        turned, values = np.split(heads, [self.heads + self.kv_heads], axis=1)
        if self.norms is not None:
            weights = np.repeat(self.norms, [self.heads, self.kv_heads], axis=0)
            turned = turned / np.sqrt((turned**2).mean(-1, keepdims=True) + NORM_EPS) * weights
        cos, sin = np.split(self.rotations[self.positions, None].astype(np.float64), 2, -1)
        one, two = np.split(turned, 2, -1)
        return np.concatenate((np.concatenate((one * cos - two * sin, two * cos + one * sin), -1), values), 1)

    def attended(self, queries: Wide, stored: list[npt.NDArray[np.float16]]) -> Wide:
        """[tokens, heads * head_dim] of queries [tokens, heads, head_dim]."""
        out = []
        for key_values, context, new in zip(stored, self.contexts, self.tokens, strict=True):
            wide = np.repeat(key_values.astype(np.float64), self.heads // self.kv_heads, axis=2)
            for position in range(context - new, context):
                first = max(0, position + 1 - self.window) if self.window else 0
                seen, query = wide[first : position + 1], queries[len(out)]
                scores = np.einsum("hd,phd->hp", query, seen[:, 0]) * self.head_dim**-0.5
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                weights /= weights.sum(-1, keepdims=True)
                out.append(np.einsum("hp,phd->hd", weights, seen[:, 1]).reshape(-1))
        return np.stack(out)


@njit
def _store_all(case, norms, layer, sizes, by_group):  # type: ignore[no-untyped-def]
    qkv, positions, write_blocks, rotations, pool = case
    heads, kv_heads, head_dim = sizes
    scale = np.float32(head_dim**-0.5)
    for token in range(qkv.shape[0]):
        if not by_group:
            attention.rotate_and_store(
                token, qkv, positions, write_blocks, rotations, norms, NORM_EPS, pool, layer, heads, kv_heads,
                head_dim, scale,
            )  # fmt: skip
            continue
        for kv_head in range(kv_heads):
            attention.rotate_and_store_group(
                token, kv_head, qkv, positions, write_blocks, rotations, norms, NORM_EPS, pool, layer, heads,
                kv_heads, head_dim, scale,
            )  # fmt: skip


@njit
def _attend_all(case, layer, sizes, tables, rows, window, parts, partials, out, scratch):  # type: ignore[no-untyped-def]
    """`rows`: int64 [sequences, 3], first row, tokens, start. `parts`: 0 takes whole chunks as such."""
    qkv, pool = case[0], case[4]
    heads, kv_heads, head_dim = sizes
    group = heads // kv_heads
    for i in range(rows.shape[0]):
        first, tokens, start = rows[i]
        for kv_head in range(kv_heads):
            if parts == 0:
                for tile in range(attention.query_tiles(tokens, group) - 1, -1, -1):
                    attention.attend_chunk(
                        tile, kv_head, first, tokens, start, qkv, pool, layer, tables[i], window, out, scratch
                    )
                continue
            for token in range(first, first + tokens):
                context = start + token - first + 1
                if parts == 1:
                    attention.attend_single(
                        token, kv_head, qkv, pool, layer, tables[i], context, window, out, scratch
                    )
                    continue
                size = attention.part_bytes(group, head_dim)
                for part in range(parts):
                    attention.attend_part(
                        token, kv_head, part, parts, qkv, pool, layer, tables[i], context, window,
                        partials + size * part, scratch,
                    )  # fmt: skip
                attention.merge_parts(token, kv_head, parts, partials, group, head_dim, out)


def computed(case: Case, parts: int, by_group: bool = False) -> Floats:
    """What the kernels make of a case, whose arrays they change. Their scratch is nan, with a guard behind."""
    group = case.heads // case.kv_heads
    sizes = (case.heads, case.kv_heads, case.head_dim)
    partial_bytes = attention.part_bytes(group, case.head_dim) * max(parts, 1)
    scratch = np.full(attention.scratch_bytes(group, case.head_dim) + GUARD_BYTES, 0xFF, np.uint8)
    partials = np.full(partial_bytes + GUARD_BYTES, 0xFF, np.uint8)
    scratch[-GUARD_BYTES:] = partials[-GUARD_BYTES:] = 0xAB
    out = np.full((len(case.qkv), case.heads * case.head_dim), np.nan, np.float32)
    rows = np.array(
        [
            (first, tokens, context - tokens)
            for first, tokens, context in zip(
                np.cumsum([0, *case.tokens]), case.tokens, case.contexts, strict=False
            )
        ],
        dtype=np.int64,
    )
    tables = np.full((len(rows), max(map(len, case.tables))), -(2**40), np.int64)
    for table, blocks in zip(tables, case.tables, strict=True):
        table[: len(blocks)] = blocks
    arrays = (case.qkv, case.positions, case.write_blocks, case.rotations, case.pool)
    norms = 0 if case.norms is None else case.norms.ctypes.data
    _store_all(arrays, norms, case.layer, sizes, by_group)
    _attend_all(
        arrays, case.layer, sizes, tables, rows, case.window, parts, partials.ctypes.data, out,
        scratch.ctypes.data,
    )  # fmt: skip
    assert np.all(scratch[-GUARD_BYTES:] == 0xAB)
    assert np.all(partials[-GUARD_BYTES:] == 0xAB)
    return out


def check(case: Case, parts: int, by_group: bool = False, bound: float = BOUND) -> None:
    heads, before = case.heads_in_place(), case.pool.copy()
    out = computed(case, parts, by_group)
    stored = case.read(case.pool)
    expected = case.attended(heads[:, : case.heads], stored)
    assert np.abs(out - expected).max() <= bound * np.abs(expected).max()
    # Rotated in float32, a key may come to lie on the other side of the middle of two float16.
    new = np.concatenate([x[-n:] for x, n in zip(stored, case.tokens, strict=True)]).astype(np.float64)
    key_values = heads[:, case.heads :].reshape(new.shape)
    assert np.all(np.abs(new - key_values) <= 2**-11 * (1 + 1e-3) * np.abs(key_values) + 1e-6)
    for table, position in zip(case.write_blocks, case.positions, strict=True):
        for pool in (before, case.pool):
            block = pool[table, case.layer]
            block[0].reshape(case.kv_heads, case.head_dim, 16)[:, :, position % 16] = 0
            block[1].reshape(case.kv_heads, 16, case.head_dim)[:, position % 16] = 0
    assert np.array_equal(case.pool, before)


@pytest.mark.parametrize("context", [1, 15, 16, 17, 160, 1056])
@pytest.mark.parametrize("parts", [1, 3])
def test_single_tokens_attend_to_their_context(context: int, parts: int) -> None:
    check(Case(9, 3, 64, [context, max(1, context - 5)], [1, 1]), parts, by_group=True)


@pytest.mark.parametrize("tokens", [2, 16, 33, 100])
@pytest.mark.parametrize("start", [0, 7, 16, 90])
def test_chunks_attend_to_what_is_before_them_and_to_themselves(tokens: int, start: int) -> None:
    check(Case(9, 3, 64, [start + tokens, start + 2], [tokens, 2]), 0)


@pytest.mark.parametrize("parts", [0, 1, 4])
@pytest.mark.parametrize("window", [1, 5, 16, 40, 500])
def test_a_window_hides_what_is_before_it(window: int, parts: int) -> None:
    check(Case(6, 2, 32, [130, 3, 90], [40, 3, 1], window=window), parts)


@pytest.mark.parametrize("heads, kv_heads", [(1, 1), (8, 8), (16, 8), (32, 8), (5, 1), (16, 1)])
def test_groups_of_all_sizes(heads: int, kv_heads: int) -> None:
    for parts in (0, 1, 2):
        check(Case(heads, kv_heads, 64, [75, 20], [30, 1]), parts)


@pytest.mark.parametrize("head_dim", [32, 48, 80, 96, 112, 128, 192, 256])
def test_heads_of_all_sizes(head_dim: int) -> None:
    for parts in (0, 1, 2):
        check(Case(4, 2, head_dim, [75, 20], [20, 1]), parts)


@pytest.mark.parametrize("by_group", [False, True])
def test_norms_of_heads_come_before_rotation(by_group: bool) -> None:
    norms = np.random.default_rng(5).uniform(0.5, 2, (2, 64)).astype(np.float32)
    check(Case(4, 2, 64, [40], [9], norms=norms), 0, by_group)


@given(
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 16),
    head_dim=st.sampled_from([32, 48, 64, 96, 128]),
    sequences=st.lists(st.tuples(st.integers(0, 150), st.integers(1, 70)), min_size=1, max_size=3),
    window=st.one_of(st.just(0), st.integers(1, 100)),
    parts=st.integers(0, 5),
    seed=st.integers(0, 2**20),
)
@example(1, 7, 64, [(64, 64), (0, 1)], 64, 0, 0)
@settings(max_examples=30, deadline=None)
def test_any_shape(
    kv_heads: int,
    group: int,
    head_dim: int,
    sequences: list[tuple[int, int]],
    window: int,
    parts: int,
    seed: int,
) -> None:
    contexts, tokens = [a + b for a, b in sequences], [b for _, b in sequences]
    check(Case(kv_heads * group, kv_heads, head_dim, contexts, tokens, window=window, seed=seed), parts)


def stored_bits(values: Floats) -> npt.NDArray[np.uint16]:
    """What V of one token of 64 elements is stored as."""
    case = Case(1, 1, 64, [18], [1])
    case.qkv[0, 128:] = values
    _store_all(
        (case.qkv, case.positions, case.write_blocks, case.rotations, case.pool), 0, 1, (1, 1, 64), True
    )
    return case.pool[case.tables[0][1], 1, 1, 0].reshape(16, 64)[1]


def test_values_are_rounded_to_the_nearest_float16() -> None:
    generator = np.random.default_rng(1)
    # Halfway between two float16, a bit beside that, and where float16 is denormal or nothing.
    halves = generator.integers(0, 0x7BFF, 16).astype(np.uint16).view(np.float16).astype(np.float32)
    nexts = (halves.astype(np.float16).view(np.uint16) + 1).view(np.float16).astype(np.float32)
    between = (halves + nexts) / 2
    values = np.concatenate(
        (
            between,
            -np.nextafter(between, np.float32(9e9)),
            np.nextafter(between, np.float32(0)),
            halves * 2**-14,
        )
    ).astype(np.float32)
    assert np.array_equal(stored_bits(values), values.astype(np.float16).view(np.uint16))


def test_what_float16_cannot_hold_becomes_its_largest_and_nan_stays() -> None:
    values = np.zeros(64, np.float32)
    values[:6] = [65504, 65519, 65520, 1e9, np.inf, np.nan]
    values[6:12] = -values[:6]
    found = stored_bits(values).view(np.float16)
    assert found[:5].tolist() == [65504] * 5
    assert found[6:11].tolist() == [-65504] * 5
    assert np.isnan(found[5])
    assert np.isnan(found[11])
    assert not found[12:].any()


@pytest.mark.parametrize("parts", [0, 1, 3])
@pytest.mark.parametrize("payload", [0x7FC00000, 0x7FC00001, 0xFFFFFFFF])
def test_nan_reaches_the_output_of_its_own_heads_alone(parts: int, payload: int) -> None:
    case = Case(4, 2, 64, [70, 40], [20, 1])
    case.qkv.view(np.uint32)[3, 2 * 64 + 9] = payload
    out = computed(case, parts).reshape(21, 4, 64)
    assert np.isnan(out[3, 2]).all()
    out[3, 2] = 0
    assert np.isfinite(out).all()


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_scores_that_are_far_apart_do_not_overflow(parts: int) -> None:
    case = Case(2, 1, 32, [100], [5])
    case.qkv[:, :64] *= 300  # scores of some 1000, which float32 holds to 1e-4
    check(case, parts, bound=2e-4)


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_equal_scores_weigh_alike(parts: int) -> None:
    case = Case(2, 1, 32, [100], [5])
    case.qkv[:, :64] = 0
    check(case, parts)


def test_positions_are_cut_where_threads_would_wait() -> None:
    assert attention.count_parts(3, 160, 2) == 1
    assert attention.count_parts(64, 100_000, 2) == 1
    assert attention.count_parts(3, 2048, 2) == 2
    assert attention.count_parts(1, 100_000, 8) == 8
    for tasks in range(1, 20):
        for threads in range(1, 9):
            for context in (1, 255, 1056, 8192):
                parts = attention.count_parts(tasks, context, threads)
                assert 1 <= parts <= max(1, min(threads, context // 256))


def test_tiles_cover_a_chunk() -> None:
    for group in range(1, 17):
        size = attention.tile_tokens(group)
        for tokens in (1, size - 1, size, size + 1, 2048):
            tiles = attention.query_tiles(tokens, group)
            assert (tiles - 1) * size < tokens <= tiles * size


def small_cases() -> Iterator[tuple[Case, int]]:
    yield Case(9, 3, 64, [161, 17, 1], [1, 1, 1]), 1
    yield Case(9, 3, 64, [161, 17, 1], [1, 1, 1]), 2
    yield Case(6, 2, 48, [130, 17], [50, 2], window=30), 0
    yield Case(5, 1, 128, [67], [67]), 0
    yield Case(5, 1, 128, [67], [3]), 1


def test_processors_without_wide_vectors() -> None:
    """In a process that compiles for one, as this machine's own choice is made once."""
    environment = os.environ | {"NUMBA_CPU_NAME": "haswell", "PYTHONPATH": os.pathsep.join(sys.path)}
    program = "import test_jit_attention as t\nfor case in t.small_cases(): t.check(*case)\nprint('checked')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "checked\n", done.stderr
