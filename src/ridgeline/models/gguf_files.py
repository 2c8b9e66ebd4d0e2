"""A model in a GGUF file: configuration, and tensors under Hugging Face's names."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ridgeline.models.config_readers import config_from_gguf, refuse_architecture
from ridgeline.models.errors import ModelError
from ridgeline.models.gguf_header import GgufFile, GgufTensor

if TYPE_CHECKING:
    import torch

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_SAMPLE_BYTES = 64
_ROPE_FACTORS = "rope_freqs.weight"


def canonical_name(gguf_name: str) -> str | None:
    """Hugging Face's name of a GGUF tensor, or None for one that no Llama-like model has."""
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", gguf_name)
    if match:
        layer, name, kind = match.groups()
        return f"model.layers.{layer}.{_LAYER_NAMES[name]}.{kind}" if name in _LAYER_NAMES else None
    name, _, kind = gguf_name.rpartition(".")
    return f"{_TOP_NAMES[name]}.{kind}" if name in _TOP_NAMES else None


class GgufWeights:
    """Tensors of a GGUF file under canonical names.

    Raises:
        ModelError: when tensors are missing, unknown or of the wrong shape.
    """

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        names = frozenset(file.tensors)
        self.config = config_from_gguf(file.metadata, names, str(file.path), self._rope_factors())
        # llama.cpp rotates neighbouring pairs for this architecture; its converter reorders the rows
        # of q and k so that the result is the same as rotating halves.
        self._interleaved = file.metadata["general.architecture"] == "llama"
        self._by_name: dict[str, GgufTensor] = {}
        for name, tensor in file.tensors.items():
            if name == _ROPE_FACTORS:
                continue
            canonical = canonical_name(name)
            if canonical is None:
                raise ModelError(
                    f"{file.path} has a tensor '{name}' that a {self.config.architecture} model does not "
                    "have; the model is of a variant that is not supported."
                )
            self._by_name[canonical] = tensor

    def _rope_factors(self) -> tuple[float, ...] | None:
        if _ROPE_FACTORS not in self.file.tensors:
            return None
        return tuple(self.file.raw(_ROPE_FACTORS).reshape(-1).view("<f4").tolist())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor in the file, by canonical name."""
        return {name: tensor.shape for name, tensor in self._by_name.items()}

    def tensor(self, name: str, device: "torch.device | None" = None) -> "torch.Tensor":
        """One tensor, dequantised to float32, rows in Hugging Face's order.

        See `Weights.tensor`: whatever `device` is, what is read is in host memory.
        """
        del device
        import torch

        from ridgeline.models.dequantise import dequantise

        tensor = self._by_name[name]
        raw = self.file.raw(tensor.name)
        if self._interleaved_heads(name) is not None:
            # A vector is one row of blocks, a matrix one row of blocks for each of its rows.
            raw = raw.reshape(tensor.shape[0], -1)[self.row_order(name)]
        values = dequantise(raw, tensor.quantization, str(self.file.path))
        return torch.from_numpy(values).reshape(tensor.shape)

    def _interleaved_heads(self, name: str) -> int | None:
        """Over how many heads the rows of this tensor are interleaved; None if they are not."""
        if not self._interleaved:
            return None
        if ".q_proj." in name:
            return self.config.heads
        return self.config.kv_heads if ".k_proj." in name else None

    def row_order(self, name: str) -> npt.NDArray[np.int64]:
        """For each canonical row of a matrix, the row of `raw` that holds it."""
        rows = self._by_name[name].shape[0]
        heads = self._interleaved_heads(name)
        order = np.arange(rows, dtype=np.int64)
        if heads is None:
            return order
        return order.reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)

    def raw(self, name: str) -> tuple[str, npt.NDArray[np.uint8]]:
        """Quantisation (`Q4_1`, ...) and the stored bytes, (rows, bytes per row), in the file's row order.

        Blocks lie along the columns, so `raw(name)[1][row_order(name)]` is in canonical order.
        """
        tensor = self._by_name[name]
        return str(tensor.quantization.name), self.file.raw(tensor.name)

    def fingerprint(self) -> str:
        """Hex digits from the header, the size and the first bytes of each tensor.

        The header alone may be the same for two trainings of a model.
        """
        digest = hashlib.sha256(self.file.header())
        digest.update(str(len(self.file)).encode())
        for tensor in self._by_name.values():
            digest.update(self.file.raw(tensor.name).reshape(-1)[:_SAMPLE_BYTES].tobytes())
        return digest.hexdigest()[:16]

    def names(self) -> Iterator[str]:
        """Canonical names, in the order of the file."""
        return iter(self._by_name)


def open_gguf(path: Path) -> GgufWeights:
    """Open a GGUF file; see `GgufFile` and `GgufWeights` for the errors."""
    file = GgufFile(path)
    if "general.architecture" not in file.metadata:
        raise refuse_architecture(None, str(path))
    return GgufWeights(file)
