"""A model's weights as the compiled step takes them: matrices in packed blocks, vectors in float32.

What a file stores in a form that products read is packed as it is. Everything else is rounded to 8
bits on the way, some rows at a time: beside the packed weights there is never a whole tensor in
float32, but for one that its source cannot give in parts.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType

from ridgeline.kernels.jit.memory import aligned_zeros
from ridgeline.kernels.jit.packing import (
    PackedMatrix,
    gguf_form,
    interleave_gate_up,
    inverse,
    pack_floats,
    pack_gguf,
    packed_bytes,
    padded,
    zeros,
)
from ridgeline.kernels.jit.products import BLOCK, FORM_8
from ridgeline.models.config import ModelConfig
from ridgeline.models.dequantise import dequantise
from ridgeline.models.errors import ModelError
from ridgeline.models.files import ModelFiles, Weights
from ridgeline.models.gguf_files import GgufWeights
from ridgeline.roofline import WeightBytes

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_FLOATS_AT_ONCE = 1 << 20
_MAX_HEAD_DIM = 256


@dataclass(frozen=True, slots=True, eq=False)
class BlockLayer:
    """One transformer block; None for what the model does not have.

    Biases have as many elements as their product has `padded_rows`, zeros where a part has none.

    Attributes:
        input_norm: [hidden].
        qkv: rows of q, then k, then v.
        qkv_bias: in the same order.
        head_norms: [2, head_dim], of q and of k.
        output: of attention.
        output_bias: [hidden].
        post_norm: [hidden].
        gate_up: rows of gate and up in turn, see `interleave_gate_up`.
        gate_up_bias: in the same order.
        down: from ffn to hidden.
        down_bias: [hidden].
    """

    input_norm: Floats
    qkv: PackedMatrix
    qkv_bias: Floats | None
    head_norms: Floats | None
    output: PackedMatrix
    output_bias: Floats | None
    post_norm: Floats
    gate_up: PackedMatrix
    gate_up_bias: Floats | None
    down: PackedMatrix
    down_bias: Floats | None

    def bytes(self) -> int:
        """What a step reads of them."""
        parts = (getattr(self, part.name) for part in fields(self))
        return sum(
            part.data.nbytes if isinstance(part, PackedMatrix) else part.nbytes
            for part in parts
            if part is not None
        )


@dataclass(frozen=True, slots=True, eq=False)
class BlockWeights:
    """All of a model, the matrices in one piece of memory in the order in which they are used.

    Attributes:
        embedding: [vocab, hidden].
        layers: in their order.
        norm: [hidden], before the head.
        head: [vocab, hidden]; `embedding` itself where they are tied.
    """

    embedding: PackedMatrix
    layers: tuple[BlockLayer, ...]
    norm: Floats
    head: PackedMatrix

    def bytes(self) -> WeightBytes:
        """What a step reads of them."""
        embedding = self.embedding
        return WeightBytes(
            blocks=sum(layer.bytes() for layer in self.layers) + self.norm.nbytes,
            head=self.head.data.nbytes,
            embedding_row=embedding.data.nbytes / embedding.padded_rows,
        )


def misfit(config: ModelConfig) -> str | None:
    """Why a model cannot be computed in blocks, as what follows "for"; None if it can."""
    sizes = {"hidden size": config.hidden, "feed-forward size": config.ffn, "head size": config.head_dim}
    for name, size in sizes.items():
        if size % BLOCK:
            return f"its {name}, {size}, is no multiple of {BLOCK}"
    if config.head_dim > _MAX_HEAD_DIM:
        return f"its head size, {config.head_dim}, is over {_MAX_HEAD_DIM}"
    return None


def load_blocks(files: ModelFiles, threads: int = 2) -> BlockWeights:
    """Read and pack the weights of a model that fits (see `misfit`).

    Args:
        files: the model.
        threads: that pack.

    Raises:
        ModelError: for weights that are not finite or beyond what blocks can hold.
    """
    config = files.config
    source = _Source(files)
    products = _products(config)
    matrices = _allocate({name: source.form(product.parts) for name, product in products.items()}, products)
    work = [
        (part, matrices[name], places)
        for name, product in products.items()
        for part, places in source.places(product)
    ]
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda item: source.pack(*item), work):
            pass
    embedding = matrices["model.embed_tokens"]
    return BlockWeights(
        embedding=embedding,
        layers=tuple(
            _layer(source, config, f"model.layers.{i}.", products, matrices) for i in range(config.layers)
        ),
        norm=source.vector("model.norm.weight"),
        head=embedding if config.tied_head else matrices["lm_head"],
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Product:
    """Matrices of the model that are multiplied as one.

    `order` says which row of all parts, one after the other, each row of the product is.
    """

    parts: tuple[str, ...]
    rows: int
    columns: int
    order: Integers


def _products(config: ModelConfig) -> dict[str, _Product]:
    """By name, in the order of use."""
    shapes = config.tensor_shapes()

    def product(parts: Iterable[str], order: Integers | None = None) -> _Product:
        names = tuple(parts)
        rows = sum(shapes[f"{part}.weight"][0] for part in names)
        columns = shapes[f"{names[0]}.weight"][1]
        return _Product(names, rows, columns, np.arange(rows) if order is None else order)

    found = {"model.embed_tokens": product(["model.embed_tokens"])}
    gate_up_order = interleave_gate_up(config.ffn)
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        found[f"{prefix}qkv"] = product(f"{prefix}self_attn.{x}_proj" for x in "qkv")
        found[f"{prefix}output"] = product([f"{prefix}self_attn.o_proj"])
        found[f"{prefix}gate_up"] = product((f"{prefix}mlp.{x}_proj" for x in ("gate", "up")), gate_up_order)
        found[f"{prefix}down"] = product([f"{prefix}mlp.down_proj"])
    if not config.tied_head:
        found["lm_head"] = product(["lm_head"])
    return found


def _allocate(forms: dict[str, int], products: dict[str, _Product]) -> dict[str, PackedMatrix]:
    sizes = {name: packed_bytes(forms[name], p.rows, p.columns) for name, p in products.items()}
    memory = aligned_zeros(sum(sizes.values()))
    matrices, at = {}, 0
    for name, size in sizes.items():
        product = products[name]
        matrices[name] = zeros(forms[name], product.rows, product.columns, memory[at : at + size])
        at += size
    return matrices


def _layer(
    source: "_Source",
    config: ModelConfig,
    prefix: str,
    products: dict[str, _Product],
    matrices: dict[str, PackedMatrix],
) -> BlockLayer:
    matrix = {name: matrices[prefix + name] for name in ("qkv", "output", "gate_up", "down")}
    bias = {name: source.bias(products[prefix + name]) for name in matrix}
    return BlockLayer(
        input_norm=source.vector(f"{prefix}input_layernorm.weight"),
        qkv=matrix["qkv"],
        qkv_bias=bias["qkv"],
        head_norms=source.head_norms(prefix) if config.qk_norm else None,
        output=matrix["output"],
        output_bias=bias["output"],
        post_norm=source.vector(f"{prefix}post_attention_layernorm.weight"),
        gate_up=matrix["gate_up"],
        gate_up_bias=bias["gate_up"],
        down=matrix["down"],
        down_bias=bias["down"],
    )


class _Source:
    """Tensors of a model by name, brought to where they belong."""

    def __init__(self, files: ModelFiles) -> None:
        self._name = files.name
        self._weights: Weights = files.weights
        self._shapes = files.config.tensor_shapes()

    def form(self, parts: Sequence[str]) -> int:
        """How a product of these parts is packed: as they are stored, where that is one form for all."""
        found = {self._stored_form(part) for part in parts}
        return found.pop() if len(found) == 1 else FORM_8

    def _stored_form(self, part: str) -> int:
        if not isinstance(self._weights, GgufWeights):
            return FORM_8
        form = gguf_form(self._weights.raw(f"{part}.weight")[0])
        return FORM_8 if form is None else form

    def places(self, product: _Product) -> Iterator[tuple[str, Integers]]:
        """Each part, and which row of the product each of its rows becomes."""
        places, first = inverse(product.order), 0
        for part in product.parts:
            rows = self._shapes[f"{part}.weight"][0]
            yield part, places[first : first + rows]
            first += rows

    def pack(self, part: str, out: PackedMatrix, places: Integers) -> None:
        """Bring a part's rows to their places in a product."""
        name = f"{part}.weight"
        if isinstance(self._weights, GgufWeights):
            kind, raw = self._weights.raw(name)
            places = places[inverse(self._weights.row_order(name))]
            if gguf_form(kind) == out.form:
                pack_gguf(raw, out, places)
                return
        first = 0
        for rows in self._float_rows(name):
            try:
                pack_floats(rows, out, places[first : first + len(rows)])
            except ValueError as error:
                raise ModelError(
                    f"{self._name} cannot be computed in blocks of 8 bits: in {name}, {error}; "
                    "choose --dtype float32."
                ) from error
            first += len(rows)

    def _float_rows(self, name: str) -> Iterator[Floats]:
        """The rows of a matrix as they are stored, several at a time."""
        rows, columns = self._shapes[name]
        step = max(1, _FLOATS_AT_ONCE // columns)
        if isinstance(self._weights, GgufWeights):
            kind, raw = self._weights.raw(name)
            for first in range(0, rows, step):
                some = raw[first : first + step]
                yield dequantise(some, GGMLQuantizationType[kind], self._name).reshape(-1, columns)
            return
        tensor = self._weights.tensor(name)
        for first in range(0, rows, step):
            part: Floats = tensor[first : first + step].float().numpy()
            yield part

    def vector(self, name: str) -> Floats:
        """A tensor of one dimension."""
        return np.array(self._weights.tensor(name).float().numpy())

    def head_norms(self, prefix: str) -> Floats:
        """Norms of the heads of q and of k."""
        return np.stack([self.vector(f"{prefix}self_attn.{x}_norm.weight") for x in "qk"])

    def bias(self, product: _Product) -> Floats | None:
        """What is added to a product; None where no part has a bias."""
        if not any(f"{part}.bias" in self._shapes for part in product.parts):
            return None
        bias = np.zeros(padded(product.rows), np.float32)
        for part, places in self.places(product):
            if f"{part}.bias" in self._shapes:
                bias[places] = self.vector(f"{part}.bias")
        return bias
