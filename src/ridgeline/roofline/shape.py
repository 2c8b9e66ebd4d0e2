"""A dense decoder-only transformer as the few numbers that its costs follow from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a Llama-like model: grouped-query attention and a gated feed-forward network.

    Attributes:
        layers: transformer blocks.
        hidden: width of the residual stream.
        heads: query heads.
        kv_heads: key and value heads; divides `heads`.
        head_dim: width of a head; `heads * head_dim` need not equal `hidden`.
        ffn: inner width of the feed-forward network.
        vocab: rows of the embedding table.
        tied_head: the LM head is the embedding table.
        attention_bias: q, k and v projections have biases.
        output_bias: the o projection has one.
        mlp_bias: gate, up and down projections have biases.
        qk_norm: norms over each head of q and of k.
        windows: per layer, the positions a token attends to at most, itself among them; None for all
            of them. Empty: no layer has a window.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied_head: bool
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads ({self.kv_heads}) must divide heads ({self.heads})")
        if self.windows and len(self.windows) != self.layers:
            raise ValueError(f"windows has {len(self.windows)} entries, but there are {self.layers} layers")

    def layer_matrix_parameters(self) -> int:
        """Parameters of one block's matrices: q, k, v and o projections, gate, up and down."""
        query = self.heads * self.head_dim
        key_value = self.kv_heads * self.head_dim
        return self.hidden * (2 * query + 2 * key_value + 3 * self.ffn)

    def head_parameters(self) -> int:
        """Parameters of the matrix that gives the logits, which may be the embedding table."""
        return self.vocab * self.hidden

    def layer_vector_parameters(self) -> int:
        """Parameters of one block that are no matrices: its norms, and the biases it has."""
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (
            2 * self.hidden
            + 2 * self.head_dim * self.qk_norm
            + (query + 2 * key_value) * self.attention_bias
            + self.hidden * self.output_bias
            + (2 * self.ffn + self.hidden) * self.mlp_bias
        )

    def block_parameters(self) -> int:
        """Parameters that every step needs: all blocks, and the norm after the last one."""
        per_layer = self.layer_matrix_parameters() + self.layer_vector_parameters()
        return self.layers * per_layer + self.hidden

    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        tables = self.head_parameters() * (1 if self.tied_head else 2)
        return self.block_parameters() + tables

    def kv_bytes_per_token(self, value_bytes: float) -> int:
        """Bytes of the keys and values that one token leaves in the cache, over all layers.

        Args:
            value_bytes: of one value, see `hardware.kv_value_bytes`.
        """
        return int(2 * self.layers * self.kv_heads * self.head_dim * value_bytes)
