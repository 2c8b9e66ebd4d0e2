"""The operations that a forward pass is made of, and the words they share.

A set of kernels is one object that satisfies `Kernels`. The layout of the KV cache belongs to the
set: nobody else sees more than block ids.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

Integers = npt.NDArray[np.int64]

Contents = npt.NDArray[np.uint8]
"""What is in a block of a KV cache, or in each of several: [bytes], [blocks, bytes]."""

Linear = Callable[[torch.Tensor], torch.Tensor]
"""A product with fixed weights: [tokens, inputs] to [tokens, outputs]."""


@dataclass(frozen=True, slots=True)
class KVShape:
    """Size of a paged KV cache.

    Attributes:
        layers: each has its own K and V for every block.
        kv_heads: key and value heads.
        head_dim: elements of a head.
        blocks: block ids run from 0 to this.
        block_size_tokens: positions in a block.
        dtype: of the elements.
    """

    layers: int
    kv_heads: int
    head_dim: int
    blocks: int
    block_size_tokens: int
    dtype: torch.dtype

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers, K and V."""
        per_position = 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize
        return per_position * self.block_size_tokens


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """All that attention must know of a model.

    Attributes:
        kv: size of the cache.
        heads: query heads; query head h reads KV head h // (heads / kv_heads).
        max_positions: positions run from 0 to this.
        inverse_frequencies: radians per position of each of the head_dim / 2 rotated pairs; pair i
            is elements i and i + head_dim / 2.
        norm_eps: of the norms over heads, where a model has them.
        windows: per layer, how many positions a token attends to at most, itself among them; None
            for all of them. Empty: no layer has a window.
        dtype: of q, and of k and v before they are stored; None: that of the cache.
    """

    kv: KVShape
    heads: int
    max_positions: int
    inverse_frequencies: tuple[float, ...]
    norm_eps: float = 1e-6
    windows: tuple[int | None, ...] = ()
    dtype: torch.dtype | None = None

    @property
    def computed_dtype(self) -> torch.dtype:
        """What is computed in, whatever K and V are stored in."""
        return self.dtype or self.kv.dtype

    def window(self, layer: int) -> int | None:
        """The sliding window of a layer, in positions."""
        return self.windows[layer] if self.windows else None


class HeadNorms(NamedTuple):
    """Weights of the RMS norms over each head of q and of k before rotation, both [head_dim]."""

    query: torch.Tensor
    key: torch.Tensor


@dataclass(frozen=True, slots=True)
class Chunk:
    """Several tokens of one sequence: part of a prompt.

    Attributes:
        first: index of its first token in the batch.
        tokens: how many, at least two.
        start: position of the first one; earlier positions are in the KV cache.
        blocks: block table, covers `start + tokens` positions.
        slot: whose it is.
    """

    first: int
    tokens: int
    start: int
    blocks: Integers
    slot: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of a step, laid out for attention.

        | single | single | ... | chunk 0 ......... | chunk 1 ... |

    Single tokens (decode, or the last token of a prompt) come first, longest context first, so
    that neighbours can be computed together with little padding.

    Attributes:
        token_ids: [tokens]; negative for one that an earlier step is drawing.
        positions: [tokens], in their sequences.
        slots: [tokens], which sequence each belongs to.
        write_blocks: [tokens], the block that holds each position.
        tables: [singles, blocks], block tables; entries beyond a sequence's own are any valid ids.
        contexts: [singles], positions attended to, the token itself among them; descending.
        chunks: in the order of the batch.
        related: some single tokens follow one another in a sequence and attend to one another.
    """

    token_ids: Integers
    positions: Integers
    slots: Integers
    write_blocks: Integers
    tables: Integers
    contexts: Integers
    chunks: tuple[Chunk, ...] = ()
    related: bool = False


class PagedAttention(Protocol):
    """K and V of all layers in blocks, and attention over them. Used from one thread."""

    def plan(self, batch: Batch) -> Any:
        """Work out once what all layers of a step share (indices, masks); opaque to the caller."""
        ...

    def attend(self, layer: int, qkv: torch.Tensor, norms: HeadNorms | None, plan: Any) -> torch.Tensor:
        """Norm and rotate q and k, store K and V, then attend causally over each sequence's context.

        Args:
            layer: whose cache.
            qkv: [tokens, (heads + 2 * kv_heads) * head_dim]: the heads of q, then of k, then of v,
                neither normed nor rotated. It may be overwritten.
            norms: of q and k, where the model has them.
            plan: of this step's batch.

        Returns:
            [tokens, heads * head_dim].
        """
        ...

    def clean(self, blocks: Integers) -> None:
        """Replace what is not finite in these blocks, so that their next owner is not harmed."""
        ...

    def read_blocks(self, blocks: torch.Tensor) -> torch.Tensor:
        """A copy of what is in these blocks: [blocks, bytes of a block], uint8; all where the cache is."""
        ...

    def write_blocks(self, blocks: torch.Tensor, contents: torch.Tensor) -> None:
        """Give blocks what was once read of others, by the same set of kernels."""
        ...


class Kernels(Protocol):
    """A set of operations for one kind of device."""

    name: str
    """Part of the fingerprint: replicas with the same name compute the same numbers."""

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """Prepare a product; `weight` is [outputs, inputs] and may be given up by the caller."""
        ...

    def gated_linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """Prepare a product with its activation, `silu(gate) * up`: [tokens, hidden] to [tokens, ffn].

        The rows of `weight`, [2 * ffn, hidden], are those of gate, then those of up.
        """
        ...

    def head(self, weight: torch.Tensor) -> Linear:
        """Prepare the last product, whose outputs are float32 whatever goes in."""
        ...

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension, the mean in float32."""
        ...

    def add_rms_norm(
        self, residual: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """Add `x` to `residual` in place and return the norm of the sum; all [tokens, hidden]."""
        ...

    def paged_attention(self, spec: AttentionSpec) -> PagedAttention:
        """Allocate a KV cache; its memory is touched only as blocks are written, where that can be."""
        ...
