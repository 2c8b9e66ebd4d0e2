"""Weights on their way from a file to the kernels: fused, converted and packed one by one.

Each tensor is converted as it streams in, copied into its place in the fused one on the device, and
handed over as soon as that is full: beside the finished weights one tensor as it was read is held,
and a few fused ones that lack a part. There is never a second copy of the model.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ridgeline.kernels.interface import HeadNorms, Kernels, Linear
from ridgeline.models.config import ModelConfig
from ridgeline.models.staging import Staging

CPU = torch.device("cpu")

_PARTS = {
    "self_attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
}
"""Products as computed, and the model's own that they are made of, in the order of their rows."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer block. `head_norms` is None where a model has none; `gate_up` is activated."""

    input_norm: torch.Tensor
    qkv: Linear
    head_norms: HeadNorms | None
    output: Linear
    post_attention_norm: torch.Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class PreparedWeights:
    """All of a model, ready to compute with. `embedding` is [vocab, hidden]."""

    embedding: torch.Tensor
    layers: tuple[Layer, ...]
    norm: torch.Tensor
    head: Linear


class _Fused:
    """A product's weight and bias being put together from its parts."""

    def __init__(
        self,
        parts: tuple[str, ...],
        shapes: dict[str, tuple[int, ...]],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.first_row: dict[str, int] = {}
        rows = 0
        for part in parts:
            self.first_row[part] = rows
            rows += shapes[f"{part}.weight"][0]
        columns = shapes[f"{parts[0]}.weight"][1]
        self.missing = {
            name for part in parts for name in (f"{part}.weight", f"{part}.bias") if name in shapes
        }
        self.weight = torch.empty(rows, columns, dtype=dtype, device=device)
        has_bias = any(name.endswith(".bias") for name in self.missing)
        self.bias = torch.zeros(rows, dtype=dtype, device=device) if has_bias else None

    def put(self, name: str, tensor: torch.Tensor, staging: Staging) -> bool:
        """Copy a part into its rows; True once all are there."""
        part, kind = name.rsplit(".", 1)
        target = self.weight if kind == "weight" else self.bias
        assert target is not None
        first = self.first_row[part]
        staging.copy(tensor, target[first : first + tensor.shape[0]])
        self.missing.discard(name)
        return not self.missing


class _Assembly:
    """Takes named tensors in any order and builds `PreparedWeights`."""

    def __init__(
        self, config: ModelConfig, kernels: Kernels, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.config = config
        self.kernels = kernels
        self.dtype = dtype
        self.device = device
        self.staging = Staging(device)
        self.shapes = config.tensor_shapes()
        self.plain: dict[str, torch.Tensor] = {}
        self.linears: dict[str, Linear] = {}
        self.partial: dict[str, _Fused] = {}
        self.parts_of: dict[str, tuple[str, tuple[str, ...]]] = {}
        for layer in range(config.layers):
            prefix = f"model.layers.{layer}."
            for fused, parts in _PARTS.items():
                named = tuple(prefix + part for part in parts)
                self.parts_of |= dict.fromkeys(named, (prefix + fused, named))
        if not config.tied_head:
            self.parts_of["lm_head"] = ("lm_head", ("lm_head",))

    def put(self, name: str, tensor: torch.Tensor) -> None:
        owner = self.parts_of.get(name.rsplit(".", 1)[0])
        if owner is None:
            self.plain[name] = torch.empty(tensor.shape, dtype=self.dtype, device=self.device)
            self.staging.copy(tensor, self.plain[name])
            return
        fused, parts = owner
        if fused not in self.partial:
            self.partial[fused] = _Fused(parts, self.shapes, self.dtype, self.device)
        if self.partial[fused].put(name, tensor, self.staging):
            done = self.partial.pop(fused)
            self.linears[fused] = self._prepare(fused, done)

    def _prepare(self, fused: str, done: _Fused) -> Linear:
        if fused == "lm_head":
            return self.kernels.head(done.weight)
        if fused.endswith("mlp.gate_up"):
            return self.kernels.gated_linear(done.weight, done.bias)
        return self.kernels.linear(done.weight, done.bias)

    def finish(self) -> PreparedWeights:
        self.staging.finish()
        embedding = self.plain["model.embed_tokens.weight"]
        head = self.kernels.head(embedding) if self.config.tied_head else self.linears["lm_head"]
        layers = tuple(self._layer(f"model.layers.{i}.") for i in range(self.config.layers))
        return PreparedWeights(embedding, layers, self.plain["model.norm.weight"], head)

    def _layer(self, prefix: str) -> Layer:
        return Layer(
            input_norm=self.plain[f"{prefix}input_layernorm.weight"],
            qkv=self.linears[f"{prefix}self_attn.qkv"],
            head_norms=self._head_norms(prefix) if self.config.qk_norm else None,
            output=self.linears[f"{prefix}self_attn.o_proj"],
            post_attention_norm=self.plain[f"{prefix}post_attention_layernorm.weight"],
            gate_up=self.linears[f"{prefix}mlp.gate_up"],
            down=self.linears[f"{prefix}mlp.down_proj"],
        )

    def _head_norms(self, prefix: str) -> HeadNorms:
        query, key = (self.plain[f"{prefix}self_attn.{x}_norm.weight"] for x in "qk")
        return HeadNorms(query, key)


def assemble(
    config: ModelConfig,
    tensors: Iterable[tuple[str, torch.Tensor]],
    kernels: Kernels,
    dtype: torch.dtype,
    device: torch.device = CPU,
) -> PreparedWeights:
    """Fuse, convert to `dtype` and prepare a model's tensors, in any order, on `device`.

    Names and shapes must be those of `config.tensor_shapes()`, as `ModelFiles` has checked. The
    tensors given may lie in host memory or on the device.
    """
    assembly = _Assembly(config, kernels, dtype, device)
    with torch.inference_mode():
        for name, tensor in tensors:
            assembly.put(name, tensor)
            del tensor  # else it would be held while the next one is read
        return assembly.finish()
