"""What the CPU executor computes with: torch in a float dtype, or int8 in kernels of our own."""

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from ridgeline.kernels.cpu import CpuKernels, packs_weights
from ridgeline.kernels.interface import Batch, Contents, Integers
from ridgeline.models.computed import Computed
from ridgeline.models.config import ModelConfig
from ridgeline.models.errors import ModelError
from ridgeline.models.files import ModelFiles
from ridgeline.models.transformer import Transformer
from ridgeline.models.weights import PreparedWeights, assemble
from ridgeline.roofline import WeightBytes

logger = logging.getLogger(__name__)

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
INT8 = "int8"
INT8_KV = (INT8, "float16")
"""What K and V may be stored in beside int8, the usual first."""


class CpuModel(Protocol):
    """A model with its KV cache. Used from one thread."""

    kernel_name: str
    """Part of the fingerprint: models with the same name compute the same numbers."""

    def forward(self, batch: Batch, rows: Integers) -> Computed:
        """Compute a step's tokens and store their K and V.

        Args:
            batch: the step.
            rows: [rows], indices of the tokens after which logits are wanted.
        """
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the token after each row: [rows, hidden] to float32 [rows, vocab]."""
        ...

    def clean(self, blocks: Integers) -> None:
        """Replace what is not finite in these blocks, so that their next owner is not harmed."""
        ...

    def read_blocks(self, blocks: Integers) -> Contents:
        """A copy of what is in these blocks: [blocks, bytes]."""
        ...

    def write_blocks(self, blocks: Integers, contents: Sequence[Contents]) -> None:
        """Give blocks what was once read of others, [bytes] each."""
        ...

    def close(self) -> None:
        """Give back what is not memory."""
        ...


class TorchModel:
    """`Transformer` with torch's own operations; see `CpuModel`."""

    def __init__(self, transformer: Transformer, kernel_name: str, threads: int) -> None:
        self.kernel_name = kernel_name
        self._transformer = transformer
        self._threads = threads

    def forward(self, batch: Batch, rows: Integers) -> Computed:
        """See `CpuModel.forward`."""
        if torch.get_num_threads() != self._threads:  # another engine of this thread set its own
            torch.set_num_threads(self._threads)
        transformer = self._transformer
        plan = transformer.attention.plan(batch)
        hidden = transformer.forward(torch.from_numpy(batch.token_ids), plan)
        return Computed(hidden, self.logits(hidden.index_select(0, torch.from_numpy(rows))))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `CpuModel.logits`."""
        if not len(hidden):
            return torch.empty(0, self._transformer.config.vocab)
        return self._transformer.logits(hidden)

    def clean(self, blocks: Integers) -> None:
        """See `CpuModel.clean`."""
        self._transformer.attention.clean(blocks)

    def read_blocks(self, blocks: Integers) -> Contents:
        """See `CpuModel.read_blocks`."""
        return self._transformer.attention.read_blocks(torch.from_numpy(blocks)).numpy()

    def write_blocks(self, blocks: Integers, contents: Sequence[Contents]) -> None:
        """See `CpuModel.write_blocks`."""
        stacked = torch.from_numpy(np.stack(contents))
        self._transformer.attention.write_blocks(torch.from_numpy(blocks), stacked)

    def close(self) -> None:
        """See `CpuModel.close`."""


def resolve_dtype(dtype: str, config: ModelConfig) -> str:
    """What to compute in, for what was asked for.

    `auto` is int8 where there are kernels for the processor and the model fits them, else bfloat16
    where the processor multiplies it, else float32.

    Raises:
        ModelError: for a dtype that the CPU executor does not compute in, or not for this model.
    """
    if dtype in FLOATS:
        return dtype
    if dtype not in ("auto", INT8):
        choices = ", ".join((*FLOATS, INT8))
        raise ModelError(f"--dtype {dtype} is not supported on the CPU; choose auto, {choices}.")
    reason = _no_int8(config)
    if reason is None:
        return INT8
    if dtype == INT8:
        raise ModelError(f"--dtype int8 is not possible here: {reason}; choose --dtype auto.")
    logger.info("computing without int8: %s", reason)
    return "bfloat16" if _multiplies_bfloat16() else "float32"


def _no_int8(config: ModelConfig) -> str | None:
    from ridgeline.kernels.jit.target import instruction_set
    from ridgeline.models.block_weights import misfit

    if instruction_set() is None:
        return "there are kernels for x86 processors with AVX2 only"
    reason = misfit(config)
    return None if reason is None else f"the model does not fit the kernels, for {reason}"


def _multiplies_bfloat16() -> bool:
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16"))


def weight_bytes(files: ModelFiles, dtype: str) -> int:
    """Most that a model's weights can take."""
    parameters = files.config.shape().parameters()
    if dtype == INT8:
        return parameters + parameters // 16  # a float16 scale for 32 of them
    return parameters * FLOATS[dtype].itemsize


def resolve_kv_dtype(kv_dtype: str, dtype: str) -> str:
    """What to store K and V in, for what was asked for, beside a dtype to compute in.

    Raises:
        ModelError: for what the kernels of that dtype do not read.
    """
    usual, *others = INT8_KV if dtype == INT8 else (dtype,)
    if kv_dtype == "auto":
        return usual
    if kv_dtype not in (usual, *others):
        raise ModelError(
            f"--kv-dtype {kv_dtype} is not possible on the CPU where it computes in {dtype}; choose "
            f"{', '.join(('auto', usual, *others))}."
        )
    return kv_dtype


class Weights:
    """A model's weights, ready; the KV cache is made when it is known how much memory they left."""

    def __init__(self, files: ModelFiles, dtype: str, kv_dtype: str, threads: int) -> None:
        self._config = files.config
        self._dtype, self._kv_dtype = dtype, kv_dtype
        self._threads = threads
        self._kernels: CpuKernels | None = None
        if dtype == INT8:
            from ridgeline.models.block_weights import load_blocks

            self._blocks = load_blocks(files)
            return
        self._kernels = CpuKernels(packed=packs_weights(FLOATS[dtype]))
        self._prepared: PreparedWeights = assemble(
            files.config, files.tensors(), self._kernels, FLOATS[dtype]
        )

    def bytes(self) -> WeightBytes:
        """What a step reads of them."""
        if self._kernels is None:
            return self._blocks.bytes()
        return WeightBytes.of(self._config.shape(), self._dtype)

    def model(self, *, blocks: int, block_size_tokens: int, max_context_tokens: int) -> CpuModel:
        """The model with a KV cache of so many blocks."""
        if self._kernels is not None:
            transformer = Transformer(
                self._config,
                self._prepared,
                self._kernels,
                blocks=blocks,
                block_size_tokens=block_size_tokens,
            )
            return TorchModel(transformer, self._kernels.name, self._threads)
        from ridgeline.kernels.jit.kv_pool import FLOAT16
        from ridgeline.kernels.jit.kv_pool import INT8 as INT8_FORM
        from ridgeline.models.block_transformer import BlockTransformer

        return BlockTransformer(
            self._config,
            self._blocks,
            blocks=blocks,
            block_size_tokens=block_size_tokens,
            max_positions=max_context_tokens,
            threads=self._threads,
            kv_form=INT8_FORM if self._kv_dtype == INT8 else FLOAT16,
        )
