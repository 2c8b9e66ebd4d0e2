"""The forward pass of the Llama family with int8 activations, as one compiled function a step."""

import logging
from dataclasses import fields

import numpy as np
import numpy.typing as npt
import torch

from ridgeline.kernels.interface import Batch, Integers, KVShape
from ridgeline.kernels.jit import attention, step
from ridgeline.kernels.jit.attention_ir import provide_attention
from ridgeline.kernels.jit.kept import is_kept
from ridgeline.kernels.jit.packing import PackedMatrix
from ridgeline.kernels.jit.products import provide_product
from ridgeline.kernels.jit.splitting import measure_splits
from ridgeline.kernels.jit.target import instruction_set
from ridgeline.kernels.jit.team import Team
from ridgeline.models.block_weights import BlockLayer, BlockWeights
from ridgeline.models.config import ModelConfig

logger = logging.getLogger(__name__)

BLOCK_SIZE_TOKENS = 16
_CUT_TASKS = 4
"""For each thread: with more pairs of a token and a KV head than this nothing is gained by cutting them."""


class BlockTransformer:
    """A model with its KV cache, computed by a team of threads. Used from one thread.

    Args:
        config: see `block_weights.misfit` for what it must be.
        weights: of the same model.
        blocks: size of the KV cache.
        block_size_tokens: positions in a block; must be 16.
        max_positions: longest context that will be computed, in tokens.
        threads: that compute.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: BlockWeights,
        *,
        blocks: int,
        block_size_tokens: int,
        max_positions: int,
        threads: int,
    ) -> None:
        if block_size_tokens != BLOCK_SIZE_TOKENS:
            raise ValueError(f"blocks hold {BLOCK_SIZE_TOKENS} tokens, not {block_size_tokens}")
        self.config = config
        self.kv_shape = KVShape(
            config.layers, config.kv_heads, config.head_dim, blocks, block_size_tokens, torch.float16
        )
        self.kernel_name = f"numba-{instruction_set()}"
        self._weights = weights
        self._team = Team(threads, step.PARTS_BESIDE_LAYERS + step.PARTS_PER_LAYER * config.layers)
        self._layers = _layer_table(config, weights)
        pool_shape = (blocks, config.layers, 2, config.kv_heads, block_size_tokens * config.head_dim)
        self._pool = np.zeros(pool_shape, np.uint16)
        self._model = step.Model(
            config.heads,
            config.kv_heads,
            config.head_dim,
            weights.embedding.data,
            weights.embedding.form,
            weights.head.address,
            weights.head.form,
            weights.norm.ctypes.data,
            config.rms_norm_eps,
            _rotations(config.rope_inverse_frequencies(), max_positions),
            self._pool,
            measure_splits(),
        )
        self._work = self._work_for(0)
        self._compile()

    def forward(self, batch: Batch, rows: Integers) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute a step's tokens and store their K and V.

        Args:
            batch: the step.
            rows: [rows], indices of the tokens after which logits are wanted.

        Returns:
            Hidden states of all tokens, float32 [tokens, hidden], normed: what `logits` takes. And
            the logits wanted, float32 [rows, vocab].
        """
        if torch.get_num_threads() != 1:
            # What draws tokens uses torch, whose own threads would spin on our cores for a while.
            torch.set_num_threads(1)
        tokens = len(batch.token_ids)
        if tokens > len(self._work.residual):
            self._work = self._work_for(tokens)
        hidden = np.empty((tokens, self.config.hidden), np.float32)
        logits = self._logits_for(len(rows))
        self._team.run(
            step.forward, self._model, self._layers, self._batch(batch), self._work, hidden, rows, logits
        )
        return torch.from_numpy(hidden), torch.from_numpy(logits)[:, : self.config.vocab]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the token after each row: [rows, hidden] to float32 [rows, vocab]."""
        logits = self._logits_for(len(hidden))
        rows = np.arange(len(hidden), dtype=np.int64)
        normed = step.Quantised.empty(len(hidden), self.config.hidden)
        self._team.run(step.head, self._model, hidden.numpy(), rows, normed, logits)
        return torch.from_numpy(logits)[:, : self.config.vocab]

    def clean(self, blocks: Integers) -> None:
        """Replace what is not finite in these blocks, so that their next owner is not harmed."""
        halves = self._pool[blocks].view(np.float16)
        self._pool[blocks] = np.nan_to_num(halves).view(np.uint16)

    def close(self) -> None:
        """End the threads."""
        self._team.close()

    def _compile(self) -> None:
        """Compile what has not been kept, by computing nothing: it must not happen in a step."""
        if not is_kept("forward"):
            logger.info("compiling kernels for this processor; this once it takes some 20 seconds")
        provide_product()
        provide_attention()
        nothing = np.zeros(0, np.int64)
        hidden, _ = self.forward(
            Batch(nothing, nothing, nothing, nothing, nothing[:, None], nothing), nothing
        )
        self.logits(hidden)

    def _logits_for(self, rows: int) -> npt.NDArray[np.float32]:
        return np.empty((rows, self._weights.head.padded_rows), np.float32)

    def _work_for(self, tokens: int) -> step.Work:
        config, threads = self.config, self._team.threads
        width, group = config.heads * config.head_dim, config.heads // config.kv_heads
        return step.Work(
            residual=np.zeros((tokens, config.hidden), np.float32),
            normed=step.Quantised.empty(tokens, config.hidden),
            qkv=np.zeros((tokens, self._weights.layers[0].qkv.padded_rows), np.float32),
            attended=np.zeros((tokens, width), np.float32),
            values=step.Quantised.empty(tokens, width),
            gated=step.Quantised.empty(tokens, config.ffn),
            partials=np.zeros(
                _CUT_TASKS * threads * threads * attention.part_bytes(group, config.head_dim), np.uint8
            ),
            scratch=np.zeros((threads, step.scratch_bytes(config.hidden, group, config.head_dim)), np.uint8),
        )

    def _batch(self, batch: Batch) -> step.Batch:
        group = self.config.heads // self.config.kv_heads
        chunks, tiles = np.zeros((len(batch.chunks), 4), np.int64), 0
        for row, chunk in zip(chunks, batch.chunks, strict=True):
            row[:] = chunk.first, chunk.tokens, chunk.start, tiles
            tiles += attention.query_tiles(chunk.tokens, group)
        tables = np.stack([chunk.blocks for chunk in batch.chunks]) if tiles else batch.tables[:0]
        return step.Batch(
            batch.token_ids,
            batch.positions,
            batch.write_blocks,
            batch.tables,
            batch.contexts,
            chunks,
            tables,
            tiles,
            self._parts(batch),
        )

    def _parts(self, batch: Batch) -> int:
        """How many the positions of single tokens are cut into, so that all threads have some."""
        tasks, threads = len(batch.contexts) * self.config.kv_heads, self._team.threads
        if batch.chunks or not 0 < tasks <= _CUT_TASKS * threads:
            return 1
        return int(attention.count_parts(tasks, int(batch.contexts[0]), threads))


def _rotations(inverse_frequencies: tuple[float, ...], positions: int) -> npt.NDArray[np.float32]:
    angles = np.outer(np.arange(positions), np.array(inverse_frequencies))
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def _layer_table(config: ModelConfig, weights: BlockWeights) -> npt.NDArray[np.void]:
    """Addresses of all that the layers are made of; the weights must outlive it."""
    table = np.zeros(config.layers, step.LAYER)
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
