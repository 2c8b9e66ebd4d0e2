"""A dense decoder-only transformer as the few numbers that its costs follow from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a Llama-like model: grouped-query attention and a gated feed-forward network.

    Biases and the q/k norms that some architectures have are not counted: they are less than
    0.1 % of the parameters of any of them.

    Attributes:
        layers: transformer blocks.
        hidden: width of the residual stream.
        heads: query heads.
        kv_heads: key and value heads; divides `heads`.
        head_dim: width of a head; `heads * head_dim` need not equal `hidden`.
        ffn: inner width of the feed-forward network.
        vocab: rows of the embedding table.
        tied_head: the LM head is the embedding table.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied_head: bool

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads ({self.kv_heads}) must divide heads ({self.heads})")

    def layer_matrix_parameters(self) -> int:
        """Parameters of one block's matrices: q, k, v and o projections, gate, up and down."""
        query = self.heads * self.head_dim
        key_value = self.kv_heads * self.head_dim
        return self.hidden * (2 * query + 2 * key_value + 3 * self.ffn)

    def head_parameters(self) -> int:
        """Parameters of the matrix that gives the logits, which may be the embedding table."""
        return self.vocab * self.hidden

    def norm_parameters(self) -> int:
        """Weights of the two norms of each block and of the last one."""
        return (2 * self.layers + 1) * self.hidden

    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        tables = self.head_parameters() * (1 if self.tied_head else 2)
        return self.layers * self.layer_matrix_parameters() + self.norm_parameters() + tables

    def kv_bytes_per_token(self, dtype_bytes: float) -> int:
        """Bytes of the keys and values that one token leaves in the cache, over all layers."""
        return int(2 * self.layers * self.kv_heads * self.head_dim * dtype_bytes)
