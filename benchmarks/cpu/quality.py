"""What int8 activations and few bits for a weight cost a model: perplexity beside that in float32.

    python benchmarks/cpu/quality.py [--model smollm2-135m] [--text FILE] [--tokens 20000] [--window 1024]
                                     [--compiled] [--only NAME ...]

Everything is computed by plain torch in float32, but for what `--compiled` adds: the kernels themselves.
What a kernel would compute with fewer bits is rounded
to that before it is used, which gives the kernel's numbers but for the order of its sums: weights as they
come out of the packed blocks that the kernels read, activations before each product in blocks of 32 with
a common scale, K and V in float16, in int8 or, as on GPUs, in float8.

Each window of the text is scored on its own. The loss is that of perplexity; its standard error is of the
differences token by token, which is far smaller than that of either perplexity. Divergence is that of
Kullback and Leibler from the model in float32. Prints a table, then one line of JSON.

The text is that of "Alice's Adventures in Wonderland" by Lewis Carroll (1865), chapters I to VIII, which
is in the public domain; lines of a paragraph are joined.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from ridgeline.kernels.interface import Batch, Chunk
from ridgeline.kernels.jit.blocks import BLOCK, from_floats
from ridgeline.kernels.jit.kv_pool import FLOAT16, INT8
from ridgeline.kernels.jit.packing import interleave_gate_up, inverse, unpack
from ridgeline.kernels.reference import rms_norm, rope
from ridgeline.models.block_weights import load_blocks
from ridgeline.models.config import ModelConfig
from ridgeline.models.files import ModelFiles, open_model

TEXT = Path(__file__).with_name("alice.txt")
LIMIT_PERCENT = 1.0
"""Of perplexity, that the path of the kernels may lose."""

FLOAT8_LARGEST = torch.finfo(torch.float8_e4m3fn).max

Tensors = dict[str, torch.Tensor]
"""A model in float32, by Hugging Face's names."""

Logits = Callable[[torch.Tensor], torch.Tensor]
"""Token ids [tokens] of one sequence to float32 [tokens, vocab]."""


def to_int8(x: torch.Tensor) -> torch.Tensor:
    """What is left of activations in int8 with a scale for 32 of them."""
    blocks = x.unflatten(-1, (-1, BLOCK))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    steps = torch.where(scale > 0, blocks / scale, 0.0)
    return (steps.round() * scale).flatten(-2)


def to_half(x: torch.Tensor) -> torch.Tensor:
    """What is left in float16."""
    return x.half().float()


def to_int8_head(x: torch.Tensor) -> torch.Tensor:
    """What is left in int8 with a scale for each token and head."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    return torch.where(scale > 0, x / scale, 0.0).round() * scale


def to_float8(x: torch.Tensor) -> torch.Tensor:
    """What is left in float8 (e4m3), as the kernels for GPUs store it."""
    return x.clamp(-FLOAT8_LARGEST, FLOAT8_LARGEST).to(torch.float8_e4m3fn).float()


@dataclass(frozen=True)
class PlainModel:
    """A model of the Llama family over one sequence, with roundings put in.

    Attributes:
        config: its sizes.
        tensors: its weights.
        activations: rounds what goes into each product.
        keys_values: rounds K (rotated) and V.
    """

    config: ModelConfig
    tensors: Tensors
    activations: Callable[[torch.Tensor], torch.Tensor] | None = None
    keys_values: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """See `Logits`."""
        config = self.config
        residual = self.tensors["model.embed_tokens.weight"][token_ids]
        for layer in range(config.layers):
            prefix = f"model.layers.{layer}."
            normed = self._norm(residual, f"{prefix}input_layernorm")
            attended = self._attend(normed, layer, f"{prefix}self_attn.")
            residual = residual + self._product(attended, f"{prefix}self_attn.o_proj")
            normed = self._norm(residual, f"{prefix}post_attention_layernorm")
            gate, up = (self._product(normed, f"{prefix}mlp.{x}_proj") for x in ("gate", "up"))
            residual = residual + self._product(F.silu(gate) * up, f"{prefix}mlp.down_proj")
        head = "model.embed_tokens" if config.tied_head else "lm_head"
        return self._product(self._norm(residual, "model.norm"), head)

    def _attend(self, normed: torch.Tensor, layer: int, prefix: str) -> torch.Tensor:
        config, tokens = self.config, len(normed)
        query, key, value = (
            self._product(normed, f"{prefix}{x}_proj").view(tokens, -1, config.head_dim) for x in "qkv"
        )
        if config.qk_norm:
            query, key = self._norm(query, f"{prefix}q_norm"), self._norm(key, f"{prefix}k_norm")
        positions = torch.arange(tokens)
        query, key = (rope(x, positions, config.rope_inverse_frequencies()) for x in (query, key))
        if self.keys_values is not None:
            key, value = self.keys_values(key), self.keys_values(value)
        distance = positions[:, None] - positions
        window = config.windows[layer] if config.windows else None
        seen = (distance >= 0) & (distance < (tokens if window is None else window))
        query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, seen, enable_gqa=True)
        return attended[0].transpose(0, 1).flatten(1)

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return rms_norm(x, self.tensors[f"{name}.weight"], self.config.rms_norm_eps)

    def _product(self, x: torch.Tensor, name: str) -> torch.Tensor:
        if self.activations is not None:
            x = self.activations(x)
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))


def rounded(tensors: Tensors, rounding: Callable[[np.ndarray], np.ndarray], keep: Sequence[str]) -> Tensors:
    """A model whose matrices but those named are rounded."""
    return {
        name: torch.from_numpy(rounding(tensor.numpy())) if tensor.ndim == 2 and name not in keep else tensor
        for name, tensor in tensors.items()
    }


def unpacked(files: ModelFiles, tensors: Tensors) -> Tensors:
    """A model with its matrices as they come out of the blocks that the kernels read."""
    config, packed = files.config, load_blocks(files)

    def rows(matrix: object, order: np.ndarray | None = None) -> torch.Tensor:
        found = torch.from_numpy(unpack(matrix).to_floats())  # type: ignore[arg-type]
        return found if order is None else found[torch.from_numpy(order)]

    found = {"model.embed_tokens": rows(packed.embedding)}
    if not config.tied_head:
        found["lm_head"] = rows(packed.head)
    sizes = [heads * config.head_dim for heads in (config.heads, config.kv_heads, config.kv_heads)]
    for index, layer in enumerate(packed.layers):
        prefix = f"model.layers.{index}."
        for name, part in zip("qkv", rows(layer.qkv).split(sizes), strict=True):
            found[f"{prefix}self_attn.{name}_proj"] = part
        found[f"{prefix}self_attn.o_proj"] = rows(layer.output)
        gate_up = rows(layer.gate_up, inverse(interleave_gate_up(config.ffn)))
        found[f"{prefix}mlp.gate_proj"], found[f"{prefix}mlp.up_proj"] = gate_up.chunk(2)
        found[f"{prefix}mlp.down_proj"] = rows(layer.down)
    return tensors | {f"{name}.weight": matrix for name, matrix in found.items()}


def q4_0(weights: np.ndarray) -> np.ndarray:
    """What is left of weights in 4 bits without minimums, as GGUF's own tools round them."""
    kind = GGMLQuantizationType.Q4_0
    return np.asarray(dequantize(quantize(weights, kind), kind), np.float32)


def variants(files: ModelFiles) -> dict[str, Logits]:
    """Models to be compared, the one in float32 first, that of the kernels second."""
    config = files.config
    plain = {name: tensor.float() for name, tensor in files.tensors()}
    blocks = unpacked(files, plain)
    eight = rounded(plain, lambda weights: from_floats(weights, 8).to_floats(), ())
    # A table that is both embedding and head is left in more bits by those who use Q4_0.
    four = rounded(plain, q4_0, ("model.embed_tokens.weight", "lm_head.weight"))
    return {
        "float32": PlainModel(config, plain),
        "kernels": PlainModel(config, blocks, to_int8, to_half),
        "int8 activations alone": PlainModel(config, plain, activations=to_int8),
        "float16 K and V alone": PlainModel(config, plain, keys_values=to_half),
        "int8 K and V alone": PlainModel(config, plain, keys_values=to_int8_head),
        "float8 K and V alone": PlainModel(config, plain, keys_values=to_float8),
        "8-bit weights alone": PlainModel(config, eight),
        "8-bit weights, int8 activations": PlainModel(config, eight, to_int8, to_half),
        "Q4_0 weights alone": PlainModel(config, four),
        "Q4_0 weights, int8 activations": PlainModel(config, four, to_int8, to_half),
    }


def compiled(files: ModelFiles, window: int) -> dict[str, Logits]:
    """The model as the CPU executor computes it in int8, and in tiles where the processor has them."""
    from ridgeline.kernels.jit.target import has_tiles

    least_wides = {"": sys.maxsize} | ({", in tiles": 1} if has_tiles() else {})
    forms = {"": FLOAT16, ", int8 K and V": INT8}
    return {
        f"compiled kernels{tiles}{kv}": _compiled(files, window, least_wide, form)
        for tiles, least_wide in least_wides.items()
        for kv, form in forms.items()
    }


def _compiled(files: ModelFiles, window: int, least_wide: int, kv_form: int) -> Logits:
    from ridgeline.models.block_transformer import BLOCK_SIZE_TOKENS, BlockTransformer

    blocks = -(-window // BLOCK_SIZE_TOKENS)
    model = BlockTransformer(
        files.config,
        load_blocks(files),
        blocks=blocks,
        block_size_tokens=BLOCK_SIZE_TOKENS,
        max_positions=window,
        threads=torch.get_num_threads(),
        kv_form=kv_form,
        least_wide=least_wide,
    )
    threads = torch.get_num_threads()
    table, none = np.arange(blocks), np.zeros(0, np.int64)

    def logits(token_ids: torch.Tensor) -> torch.Tensor:
        tokens = len(token_ids)
        positions = np.arange(tokens)
        written = table[positions // BLOCK_SIZE_TOKENS]
        chunks = (Chunk(0, tokens, 0, table[: written[-1] + 1], 0),)
        slots = np.zeros(tokens, np.int64)
        batch = Batch(token_ids.numpy(), positions, slots, written, none[:, None], none, chunks)
        computed = model.forward(batch, positions).logits
        torch.set_num_threads(threads)  # the step leaves torch one
        return computed

    return logits


@dataclass
class Scores:
    """Of each token: how unlikely it was, whether the likeliest was that of float32, and divergence."""

    surprise: list[torch.Tensor] = field(default_factory=list)
    same: list[torch.Tensor] = field(default_factory=list)
    divergence: list[torch.Tensor] = field(default_factory=list)


def score(models: dict[str, Logits], token_ids: Sequence[int], window: int) -> dict[str, Scores]:
    """Score a text, window by window; the first model is the one that the others are compared with."""
    scores = {name: Scores() for name in models}
    with torch.inference_mode():
        for ids in torch.tensor(token_ids).split(window):
            reference = None
            for name, logits in models.items():
                likelihoods = logits(ids)[:-1].log_softmax(-1)
                reference = likelihoods if reference is None else reference
                scores[name].surprise.append(-likelihoods.gather(-1, ids[1:, None])[:, 0].double())
                scores[name].same.append(likelihoods.argmax(-1) == reference.argmax(-1))
                difference = reference - likelihoods
                scores[name].divergence.append((reference.exp() * difference).sum(-1).double())
    return scores


def summary(scores: dict[str, Scores]) -> dict[str, dict[str, float]]:
    """Perplexity and what is lost of it, in percent, and how often the likeliest token is the same."""
    reference = torch.cat(next(iter(scores.values())).surprise)
    found = {}
    for name, row in scores.items():
        surprise = torch.cat(row.surprise)
        difference = surprise - reference
        found[name] = {
            "perplexity": math.exp(surprise.mean()),
            "loss_percent": 100 * math.expm1(difference.mean()),
            "standard_error_percent": 100 * float(difference.std()) / len(difference) ** 0.5,
            "same_token_percent": 100 * float(torch.cat(row.same).double().mean()),
            "divergence_nats": float(torch.cat(row.divergence).mean()),
        }
    return found


def main() -> None:
    """Read the command line, compute, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="beside float32, those whose names contain it"
    )
    options = parser.parse_args()
    started = time.perf_counter()
    files = open_model(options.model)
    token_ids = files.tokenizer.encode(options.text.read_text(encoding="utf-8"))[: options.tokens]
    models = variants(files)
    if options.compiled:
        models |= compiled(files, options.window)
    if options.only:
        models = {
            name: model
            for index, (name, model) in enumerate(models.items())
            if index == 0 or any(part in name for part in options.only)
        }
    results = summary(score(models, token_ids, options.window))
    print(
        f"{files.name}, {len(token_ids)} tokens of {options.text.name} in windows of {options.window}, "
        f"torch {torch.__version__}, {platform.platform()}, {time.perf_counter() - started:.0f} s"
    )
    print(f"{'':34}{'perplexity':>12}{'loss %':>9}{'+- %':>8}{'same token %':>14}{'divergence':>12}")
    for name, row in results.items():
        print(
            f"{name:34}{row['perplexity']:12.4f}{row['loss_percent']:9.3f}{row['standard_error_percent']:8.3f}"
            f"{row['same_token_percent']:14.2f}{row['divergence_nats']:12.5f}"
        )
    of_kernels = [row["loss_percent"] for name, row in results.items() if "kernels" in name]
    kept = max(of_kernels, default=0.0) <= LIMIT_PERCENT
    print(f"the kernels lose {'no more' if kept else 'MORE'} than {LIMIT_PERCENT} % of perplexity")
    print(
        json.dumps(
            {
                "benchmark": "cpu_quality",
                "model": files.name,
                "fingerprint": files.fingerprint,
                "text": options.text.name,
                "tokens": len(token_ids),
                "window_tokens": options.window,
                "torch": torch.__version__,
                "results": results,
            }
        )
    )


if __name__ == "__main__":
    main()
