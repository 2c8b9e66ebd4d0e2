"""Cases for the attention of compiled steps, and plain float64 to hold them against.

What comes out may differ by 5e-6 of the largest output from the exact attention over K and V as they
are stored: sums in float32, and an exponential that is within 1e-6. Over int8 by more for single
tokens, whose queries and weights are rounded to 16 bits.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from ridgeline.kernels.jit import attention
from ridgeline.kernels.jit.kv_pool import FLOAT16, INT8, KVPool, pool_at
from ridgeline.kernels.jit.wide import configure, release, tile_configuration

Floats = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

NAN = 0x7E00
BOUND = 5e-6
INT8_BOUND = 5e-4
WIDE_BOUND = 0.03
"""Of chunks in tiles, whose products are of bfloat16."""
GUARD_BYTES = 64
NORM_EPS = 1e-5


@dataclass
class Case:
    """Sequences of one step, the last `tokens[i]` of `contexts[i]` positions being new."""

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
    form: int = FLOAT16

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        rows = sum(self.tokens)
        self.width = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = random.standard_normal((rows, self.width)).astype(np.float32)
        blocks = [-(-context // 16) for context in self.contexts]
        ids = random.permutation(sum(blocks) + 3)
        bounds = np.cumsum([0, *blocks])
        self.tables = [ids[a:b].astype(np.int64) for a, b in pairwise(bounds)]
        shape = len(ids), self.layers, 2, self.kv_heads
        if self.form == INT8:
            self.pool = np.full((*shape, 16 * self.head_dim + 64), 0xFF, np.uint8)
        else:
            self.pool = np.full((*shape, 16 * self.head_dim), NAN, np.uint16)
        # What another step has left: positions that no new token sees are nan, as if never written.
        self.stored = [
            random.standard_normal((context, 2, self.kv_heads, self.head_dim)).astype(np.float16)
            for context in self.contexts
        ]
        for table, stored, new in zip(self.tables, self.stored, self.tokens, strict=True):
            start = len(stored) - new
            for position in range(max(0, start - self.window + 1) if self.window else 0, start):
                self.store(table, position, stored[position])
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

    @property
    def kv_pool(self) -> KVPool:
        """As kernels take it."""
        found: KVPool = pool_at(self.pool.ctypes.data, self.form, self.layers, self.kv_heads, self.head_dim)
        return found

    def views(self, block: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        """Of a layer of a block.

        Returns:
            K and V, [kv_heads, 16, head_dim], for float16. For int8 K as [kv_heads, 16, pairs, 2] and V as
            [kv_heads, pairs, 2, head_dim], then the scales of each, [kv_heads, 16].
        """
        heads, size = self.kv_heads, self.head_dim
        if self.form == FLOAT16:
            bits = block.view(np.float16)
            return bits[0].reshape(heads, size, 16).swapaxes(1, 2), bits[1].reshape(heads, 16, size)
        quants = block[..., : 16 * size].view(np.int8)
        keys = quants[0].reshape(heads, size // 2, 16, 2).transpose(0, 2, 1, 3)
        values = quants[1].reshape(heads, 8, size, 2).transpose(0, 1, 3, 2)
        scales = block[..., 16 * size :].view(np.float32)
        return keys, values, scales[0], scales[1]

    def store(self, table: Integers, position: int, key_value: npt.NDArray[np.float16]) -> None:
        """K and V of a position, [2, kv_heads, head_dim]."""
        offset = position % 16
        places = self.views(self.pool[table[position // 16], self.layer])
        if self.form == FLOAT16:
            places[0][:, offset], places[1][:, offset] = key_value
            return
        scales = np.abs(key_value.astype(np.float32)).max(-1) / 127
        quants = np.rint(key_value / np.maximum(scales, 1e-30)[..., None])
        places[0][:, offset] = quants[0].reshape(self.kv_heads, -1, 2)
        places[1][:, offset // 2, offset % 2] = quants[1]
        places[2][:, offset], places[3][:, offset] = scales

    def read(self) -> list[Wide]:
        """K and V of each sequence as they are stored, [positions, 2, kv_heads, head_dim]."""
        found = []
        for table, context in zip(self.tables, self.contexts, strict=True):
            blocks = []
            for block in table:
                keys, values, *scales = self.views(self.pool[block, self.layer])
                both = np.stack([x.reshape(self.kv_heads, 16, -1) for x in (keys, values)]).astype(np.float64)
                blocks.append(both * np.stack(scales)[..., None] if scales else both)
            found.append(np.concatenate(blocks, 2).transpose(2, 0, 1, 3)[:context])
        return found

    def forget(self, block: npt.NDArray[Any], offset: int) -> None:
        """Set a position of a layer of a block to 0."""
        keys, values, *scales = self.views(block)
        keys[:, offset] = 0
        for scale in scales:
            scale[:, offset] = 0
        if scales:
            values[:, offset // 2, offset % 2] = 0
        else:
            values[:, offset] = 0

    def stored_within(self, key_values: Wide) -> Wide:
        """What may be lost as these [tokens, 2, kv_heads, head_dim] are stored."""
        if self.form == INT8:
            return np.abs(key_values).max(-1, keepdims=True) / 254 * (1 + 1e-3) + 1e-6
        # Rotated in float32, a key may come to lie on the other side of the middle of two float16.
        return 2**-11 * (1 + 1e-3) * np.abs(key_values) + 1e-6

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

    def attended(self, queries: Wide, stored: list[Wide]) -> Wide:
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
def store_all(case, norms, layer, sizes, by_group):  # type: ignore[no-untyped-def]
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
def _attend_all(case, layer, sizes, tables, rows, window, parts, partials, out, scratch, tiles):  # type: ignore[no-untyped-def]
    """`rows`: int64 [sequences, 3], first row, tokens, start. `parts`: 0 takes whole chunks as such."""
    qkv, pool = case[0], case[4]
    heads, kv_heads, head_dim = sizes
    group = heads // kv_heads
    for i in range(rows.shape[0]):
        first, tokens, start = rows[i]
        for kv_head in range(kv_heads):
            if tiles:
                configure(tiles)
                for tile in range(attention.query_tiles(tokens, group)):
                    attention.attend_chunk_wide(
                        tile, kv_head, first, tokens, start, qkv, pool, layer, tables[i], window, out, scratch
                    )
                release()
                continue
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


def computed(case: Case, parts: int, by_group: bool = False, wide: bool = False) -> Floats:
    """What the kernels make of a case, whose arrays they change, with scratch of the size they ask for."""
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
    arrays = (case.qkv, case.positions, case.write_blocks, case.rotations, case.kv_pool)
    norms = 0 if case.norms is None else case.norms.ctypes.data
    store_all(arrays, norms, case.layer, sizes, by_group)
    configuration = tile_configuration()
    _attend_all(
        arrays, case.layer, sizes, tables, rows, case.window, parts, partials.ctypes.data, out,
        scratch.ctypes.data, configuration.ctypes.data if wide else 0,
    )  # fmt: skip
    assert np.all(scratch[-GUARD_BYTES:] == 0xAB)
    assert np.all(partials[-GUARD_BYTES:] == 0xAB)
    return out


def check(case: Case, parts: int, by_group: bool = False, bound: float = BOUND, wide: bool = False) -> None:
    """Compare what comes out, and what is then stored, with what must be.

    Args:
        case: is changed.
        parts: 0 to attend as chunks, else the parts of each token's positions.
        by_group: store a token's KV heads one by one.
        bound: of the largest output.
        wide: attend as chunks in tiles.
    """
    heads, before = case.heads_in_place(), case.pool.copy()
    out = computed(case, parts, by_group, wide)
    stored = case.read()
    expected = case.attended(heads[:, : case.heads], stored)
    assert np.abs(out - expected).max() <= bound * np.abs(expected).max()
    new = np.concatenate([x[-n:] for x, n in zip(stored, case.tokens, strict=True)]).astype(np.float64)
    key_values = heads[:, case.heads :].reshape(new.shape)
    assert np.all(np.abs(new - key_values) <= case.stored_within(key_values))
    for table, position in zip(case.write_blocks, case.positions, strict=True):
        for pool in (before, case.pool):
            case.forget(pool[table, case.layer], position % 16)
    assert np.array_equal(case.pool, before)
