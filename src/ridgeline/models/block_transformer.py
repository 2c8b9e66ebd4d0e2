"""The forward pass of the Llama family with int8 activations, as one compiled function a step."""

import logging
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from ridgeline.kernels.interface import Batch, Contents, Integers
from ridgeline.kernels.jit import attention, step
from ridgeline.kernels.jit.attention_int8_ir import provide_int8
from ridgeline.kernels.jit.attention_ir import provide_attention
from ridgeline.kernels.jit.kept import is_kept
from ridgeline.kernels.jit.kv_pool import FLOAT16, INT8, piece_bytes
from ridgeline.kernels.jit.memory import aligned_zeros
from ridgeline.kernels.jit.products import provide_product
from ridgeline.kernels.jit.splitting import measure_least_wide
from ridgeline.kernels.jit.target import has_tiles, instruction_set
from ridgeline.kernels.jit.team import Team
from ridgeline.kernels.jit.wide import ROWS
from ridgeline.models.block_job import CUT_TASKS, Job
from ridgeline.models.block_weights import BlockWeights
from ridgeline.models.computed import Computed
from ridgeline.models.config import ModelConfig

logger = logging.getLogger(__name__)

BLOCK_SIZE_TOKENS = 16


class BlockTransformer:
    """A model with its KV cache, computed by a team of threads. Used from one thread.

    Args:
        config: see `block_weights.misfit` for what it must be.
        weights: of the same model.
        blocks: size of the KV cache.
        block_size_tokens: positions in a block; must be 16.
        max_positions: longest context that will be computed, in tokens.
        threads: that compute.
        kv_form: how K and V are stored, `kv_pool.FLOAT16` or `INT8`.
        least_wide: tokens from which on a step's products are done in the processor's tiles; None: as
            is faster here, by measurement. Without tiles it must be None or `sys.maxsize`, which is never.
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
        kv_form: int = FLOAT16,
        least_wide: int | None = None,
    ) -> None:
        if block_size_tokens != BLOCK_SIZE_TOKENS:
            raise ValueError(f"blocks hold {BLOCK_SIZE_TOKENS} tokens, not {block_size_tokens}")
        self.config = config
        self._kv_form = kv_form
        least_wide = measure_least_wide() if least_wide is None else least_wide
        if least_wide < sys.maxsize and not has_tiles():
            raise ValueError("this processor has no tiles, or the system does not let this process have them")
        self.kernel_name = f"numba-{instruction_set()}{'-amx' if least_wide < sys.maxsize else ''}"
        self._weights = weights
        self._team = Team(threads, step.PARTS_BESIDE_LAYERS + step.PARTS_PER_LAYER * config.layers)
        kind = np.dtype(np.uint8 if kv_form == INT8 else np.uint16)
        piece = piece_bytes(kv_form, config.head_dim) // kind.itemsize
        self._pool = aligned_zeros((blocks, config.layers, 2, config.kv_heads, piece), kind)
        self._hidden = aligned_zeros((0, config.hidden), np.float32)
        self._logits = self._logit_rows(0)
        self._job = Job(config, weights, self._pool, kv_form, max_positions, threads, least_wide)
        self._compile()

    def forward(self, batch: Batch, rows: Integers) -> Computed:
        """Compute a step's tokens and store their K and V.

        Args:
            batch: the step.
            rows: [rows], indices of the tokens after which logits are wanted.

        Returns:
            Hidden states and logits are good until the next call; the logits have peaks.
        """
        if torch.get_num_threads() != 1:
            # What draws tokens uses torch, whose own threads would spin on our cores for a while.
            torch.set_num_threads(1)
        tokens = len(batch.token_ids)
        if tokens > len(self._hidden):
            self._hidden = aligned_zeros((tokens, self.config.hidden), np.float32)
        hidden, logits = self._hidden[:tokens], self._logits_for(len(rows))
        self._job.describe(batch, self._parts(batch))
        peaks = self._job.ask(hidden, rows, logits)
        self._team.run(self._forward, self._job.address)
        return Computed(
            torch.from_numpy(hidden),
            torch.from_numpy(logits)[: len(rows), : self.config.vocab],
            peaks.tolist(),
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the token after each row: [rows, hidden] to float32 [rows, vocab]."""
        logits = self._logit_rows(len(hidden))
        self._job.ask(hidden.contiguous().numpy(), np.arange(len(hidden), dtype=np.int64), logits)
        self._team.run(self._head, self._job.address)
        return torch.from_numpy(logits)[: len(hidden), : self.config.vocab]

    def clean(self, blocks: Integers) -> None:
        """Replace what is not finite in these blocks, so that their next owner is not harmed."""
        found = self._pool[blocks]
        if self._kv_form == INT8:
            scales = found[..., BLOCK_SIZE_TOKENS * self.config.head_dim :].view(np.float32)
            scales[~np.isfinite(scales)] = 0
        else:
            np.nan_to_num(found.view(np.float16), copy=False)
        self._pool[blocks] = found

    def read_blocks(self, blocks: Integers) -> Contents:
        """A copy of what is in these blocks: [blocks, bytes]."""
        return self._pool[blocks].reshape(len(blocks), -1).view(np.uint8)

    def write_blocks(self, blocks: Integers, contents: Sequence[Contents]) -> None:
        """Give blocks what was once read of others, [bytes] each."""
        shape = self._pool.shape[1:]
        for block, content in zip(blocks, contents, strict=True):
            self._pool[block] = content.view(self._pool.dtype).reshape(shape)

    def close(self) -> None:
        """End the threads."""
        self._team.close()

    def _compile(self) -> None:
        """Compile what has not been kept: it must not happen in a step."""
        if not is_kept("forward"):
            logger.info("compiling kernels for this processor; this once it takes some 40 seconds")
        provide_product()
        provide_attention()
        provide_int8()
        self._forward, self._head = step.forward(), step.head()

    def _logits_for(self, rows: int) -> npt.NDArray[np.float32]:
        """Memory that is used again: fresh memory would have to be got from the system in each step."""
        if rows > len(self._logits):
            self._logits = self._logit_rows(rows)
        return self._logits

    def _logit_rows(self, rows: int) -> npt.NDArray[np.float32]:
        return aligned_zeros((-(-rows // ROWS) * ROWS, self._weights.head.padded_rows), np.float32)

    def _parts(self, batch: Batch) -> int:
        """How many the positions of single tokens are cut into, so that all threads have some."""
        tasks, threads = len(batch.contexts) * self.config.kv_heads, self._team.threads
        if batch.chunks or not 0 < tasks <= CUT_TASKS * threads:
            return 1
        return int(attention.count_parts(tasks, int(batch.contexts[0]), threads))
