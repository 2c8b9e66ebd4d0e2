"""The record that a compiled step is entered with, and the memory that its addresses point to."""

import sys
from dataclasses import fields

import numpy as np
import numpy.typing as npt

from ridgeline.kernels.interface import Batch, Integers
from ridgeline.kernels.jit import attention, step
from ridgeline.kernels.jit.memory import ALIGNMENT_BYTES, Array, aligned_arrays, aligned_zeros
from ridgeline.kernels.jit.packing import PackedMatrix
from ridgeline.kernels.jit.products import BLOCK
from ridgeline.kernels.jit.splitting import measure_splits
from ridgeline.kernels.jit.step_job import JOB, LAYER
from ridgeline.kernels.jit.step_products import PANEL_BYTES
from ridgeline.kernels.jit.team import MOST_GROUPS
from ridgeline.kernels.jit.wide import ROWS, tile_configuration
from ridgeline.models.block_weights import BlockLayer, BlockWeights
from ridgeline.models.config import ModelConfig

CUT_TASKS = 4
"""For each thread: with more pairs of a token and a KV head than this nothing is gained by cutting them."""

_GROUP_ROWS = 2 * ROWS
"""At least, in a group of its own thread: each thread unpacks the weights for its group."""


class Job:
    """What the steps of one model are given, one after the other. `address` is that of its record.

    Args:
        config: of the model.
        weights: of the same model.
        pool: its KV cache, see `kernels.jit.kv_pool`; [blocks, ...].
        kv_form: of `FLOAT16` and `INT8`, how it is stored.
        max_positions: longest context that will be computed, in tokens.
        threads: that compute.
        least_wide: tokens from which on a step's products are wide, see `kernels.jit.wide`.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: BlockWeights,
        pool: Array,
        kv_form: int,
        max_positions: int,
        threads: int,
        least_wide: int,
    ) -> None:
        self._config = config
        self._weights = weights
        self._threads = threads
        self._record = np.zeros(1, JOB)
        self.address = self._record.ctypes.data
        self._alive: dict[str, Array] = {}
        self._room_tokens = 0
        self._least_wide = least_wide
        self._set(
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            hidden=config.hidden,
            ffn=config.ffn,
            layers=config.layers,
            layer_records=_layer_table(config, weights),
            embedding=weights.embedding.data,
            embedding_bytes=weights.embedding.data.size,
            embedding_form=weights.embedding.form,
            head=weights.head.data,
            head_form=weights.head.form,
            vocab=config.vocab,
            vocab_filled=weights.head.padded_rows,
            norm=weights.norm,
            norm_eps=config.rms_norm_eps,
            rotations=_rotations(config.rope_inverse_frequencies(), max_positions),
            max_positions=max_positions,
            pool=pool,
            kv_form=kv_form,
            threads=threads,
        )
        splits = measure_splits()
        self._set(splits=splits, split_forms=splits.shape[0], split_rows=splits.shape[1])
        group = config.heads // config.kv_heads
        scratch_bytes = step.scratch_bytes(config.hidden, group, config.head_dim)
        scratch = aligned_zeros((threads, -(-scratch_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES))
        part_bytes = attention.part_bytes(group, config.head_dim)
        partials = aligned_zeros(CUT_TASKS * threads * threads * part_bytes)
        self._set(
            scratch=scratch, scratch_bytes=scratch.shape[1], partials=partials, partial_bytes=partials.size
        )
        if least_wide < sys.maxsize:
            panels = aligned_zeros((threads, PANEL_BYTES))
            configuration = tile_configuration()
            self._set(panels=panels, panel_bytes=panels.shape[1], tile_configuration=configuration)

    def describe(self, batch: Batch, parts: int) -> None:
        """Take over a step's tokens.

        Args:
            batch: the step.
            parts: that the positions of each single token are cut into.
        """
        tokens = len(batch.token_ids)
        self._make_room(tokens)
        group = self._config.heads // self._config.kv_heads
        chunks, tiles = np.zeros((len(batch.chunks), 4), np.int64), 0
        for row, chunk in zip(chunks, batch.chunks, strict=True):
            row[:] = chunk.first, chunk.tokens, chunk.start, tiles
            tiles += attention.query_tiles(chunk.tokens, group)
        chunk_tables = np.stack([chunk.blocks for chunk in batch.chunks]) if tiles else batch.tables[:0]
        self._set(
            tokens=tokens,
            token_ids=batch.token_ids,
            positions=batch.positions,
            write_blocks=batch.write_blocks,
            singles=len(batch.contexts),
            tables=batch.tables,
            table_blocks=batch.tables.shape[1],
            contexts=batch.contexts,
            chunks=len(chunks),
            chunk_records=chunks,
            chunk_tables=chunk_tables,
            chunk_blocks=chunk_tables.shape[1],
            tiles=tiles,
            parts=parts,
            related=int(batch.related),
        )

    def ask(
        self, normed: npt.NDArray[np.float32], rows: Integers, logits: npt.NDArray[np.float32]
    ) -> Integers:
        """Say where the last norms of the tokens go or are, whose logits are wanted, and where those go.

        Returns:
            [rows], where to find the place of each row's largest logit; -1 for rows with what is no number.
        """
        self._make_room(len(rows))
        least = self._least_wide
        wide = len(normed) >= least
        groups = max(1, min(self._threads, MOST_GROUPS, len(normed) // _GROUP_ROWS)) if wide else 1
        self._set(wide=wide, wide_head=len(rows) >= least, groups=groups)
        peaks = np.zeros(len(rows), np.int64)
        self._set(tokens=len(normed), normed_tokens=normed, rows=len(rows), row_ids=rows)
        self._set(logits=logits, peaks=peaks)
        return peaks

    def _make_room(self, tokens: int) -> None:
        if tokens <= self._room_tokens:
            return
        tokens = -(-tokens // ROWS) * ROWS
        config = self._config
        width = config.heads * config.head_dim
        qkv_columns = self._weights.layers[0].qkv.padded_rows
        wanted: dict[str, tuple[tuple[int, int], npt.DTypeLike]] = {
            "residual": ((tokens, config.hidden), np.float32),
            "qkv": ((tokens, qkv_columns), np.float32),
            "attended": ((tokens, width), np.float32),
        }
        for kind, columns in (("normed", config.hidden), ("attention", width), ("gated", config.ffn)):
            blocks = columns // BLOCK
            wanted[f"{kind}_values"] = (tokens, columns), np.int8
            wanted[f"{kind}_scales"] = (tokens, blocks), np.float32
            wanted[f"{kind}_counts"] = (tokens, blocks), np.int32
            wanted[f"{kind}_totals"] = (tokens, blocks), np.float32
            wanted[f"{kind}_rounded"] = (tokens, columns), np.uint16
        self._set(qkv_columns=qkv_columns, **aligned_arrays(wanted))
        self._room_tokens = tokens

    def _set(self, **values: Array | float) -> None:
        """Numbers as they are; of arrays the address, and they are kept alive until they are replaced."""
        record = self._record[0]
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                array = np.ascontiguousarray(value)
                self._alive[name] = array
                record[name] = array.ctypes.data
            else:
                record[name] = value


def _rotations(inverse_frequencies: tuple[float, ...], positions: int) -> npt.NDArray[np.float32]:
    angles = np.outer(np.arange(positions), np.array(inverse_frequencies))
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def _layer_table(config: ModelConfig, weights: BlockWeights) -> npt.NDArray[np.void]:
    """Addresses of all that the layers are made of; the weights must outlive it."""
    table = np.zeros(config.layers, LAYER)
    for index, layer in enumerate(weights.layers):
        for field in fields(BlockLayer):
            value = getattr(layer, field.name)
            if isinstance(value, PackedMatrix):
                table[field.name][index] = value.address
                table[f"{field.name}_form"][index] = value.form
            elif value is not None:
                table[field.name][index] = value.ctypes.data
        if config.windows:
            table["window"][index] = config.windows[index] or 0
    return table
