"""Each kernel alone against its plain counterpart in float32, on inputs of real sizes."""

from dataclasses import dataclass

import numpy as np
import torch

from gpu.bench import Bench
from gpu.compare import ERROR_LIMITS, put_check, relative_error, worst
from gpu.draw_checks import check_draws
from gpu.paged import BLOCK_SIZE_TOKENS, Sequences, plan_of
from ridgeline.kernels.cuda.kernels import CudaKernels
from ridgeline.kernels.interface import AttentionSpec, Batch, HeadNorms, KVShape
from ridgeline.kernels.reference import ReferenceAttention, ReferenceKernels

_ROWS = (1, 17, 33)
_EPS = 1e-5
_PLAIN = ReferenceKernels()


def check_kernels(bench: Bench, name: str) -> None:
    """Norms, products and attention in every dtype, then drawing."""
    for salt, (dtype, limit) in enumerate(ERROR_LIMITS.items()):
        if not bench.has_time(10.0, f"kernels in {dtype}"):
            continue
        generator = torch.Generator().manual_seed(bench.seed + salt)
        kernels = bench.place.kernels(8)
        with torch.inference_mode():
            for check, error in _rows(bench, kernels, getattr(torch, dtype), generator).items():
                put_check(bench, name, dtype, check, error, limit)
            for window in (None, bench.scale.window):
                error = _attention(bench, kernels, getattr(torch, dtype), window, generator)
                check = "rotary, store, attention" + (f", window {window}" if window else "")
                put_check(bench, name, dtype, check, error, limit)
    if bench.has_time(10.0, "drawing"):
        check_draws(bench, name)


def _random(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    generator: torch.Generator,
    *,
    around: float = 0.0,
    spread: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers that the dtype holds, in it and in float32."""
    values = (around + spread * torch.randn(shape, generator=generator)).to(dtype)
    return values, values.float().clone()  # operations change what they are given


def _rows(
    bench: Bench, kernels: CudaKernels, dtype: torch.dtype, generator: torch.Generator
) -> dict[str, float]:
    """What is computed row by row; the largest error of each over all numbers of rows."""
    place, (hidden, ffn) = bench.place.torch_device, bench.scale.hidden
    errors: dict[str, list[float]] = {"norm": [], "sum and norm": [], "product": [], "gated product": []}
    matrix, wide_matrix = _random((ffn // 4, hidden), dtype, generator, spread=hidden**-0.5)
    bias, wide_bias = _random((ffn // 4,), dtype, generator)
    operands = matrix.to(place), bias.to(place)
    for rows in _ROWS:
        x, wide = _random((rows, hidden), dtype, generator)
        weight, wide_weight = _random((hidden,), dtype, generator)
        residual, wide_residual = _random((rows, hidden), dtype, generator)
        gain = weight.to(place)
        got = kernels.rms_norm(x.to(place), gain, _EPS)
        errors["norm"].append(relative_error(got, _PLAIN.rms_norm(wide, wide_weight, _EPS)))
        summed = residual.to(place)
        got = kernels.add_rms_norm(summed, x.to(place), gain, _EPS)
        wanted = _PLAIN.add_rms_norm(wide_residual, wide, wide_weight, _EPS)
        errors["sum and norm"] += [relative_error(got, wanted), relative_error(summed, wide_residual)]
        tokens, wide_tokens = _random((rows, hidden), dtype, generator)
        got = kernels.linear(*operands)(tokens.to(place))
        wanted = _PLAIN.linear(wide_matrix, wide_bias)(wide_tokens)
        errors["product"].append(relative_error(got, wanted))
        got = kernels.gated_linear(*operands)(tokens.to(place))
        wanted = _PLAIN.gated_linear(wide_matrix, wide_bias)(wide_tokens)
        errors["gated product"].append(relative_error(got, wanted))
    return {check: worst(found) for check, found in errors.items()}


@dataclass(frozen=True)
class _Step:
    """Single tokens after long contexts, and a chunk, of one layer."""

    spec: AttentionSpec
    sequences: Sequences
    batch: Batch
    contexts: list[int]


def _step(bench: Bench, dtype: torch.dtype, window: int | None, generator: np.random.Generator) -> _Step:
    heads, kv_heads, head_dim = bench.scale.heads
    start, tokens = bench.scale.long_chunk
    contexts = [*bench.scale.long_contexts, start + tokens]
    sequences = Sequences(contexts, generator)
    shape = KVShape(1, kv_heads, head_dim, sequences.blocks, BLOCK_SIZE_TOKENS, dtype)
    frequencies = tuple(10000.0 ** (-2 * i / head_dim) for i in range(head_dim // 2))
    spec = AttentionSpec(shape, heads, max(contexts) + 1, frequencies, _EPS, (window,))
    singles = {i: context - 1 for i, context in enumerate(contexts[:-1])}
    batch = sequences.batch(singles, {len(singles): (start, tokens)})
    return _Step(spec, sequences, batch, contexts)


def _attention(
    bench: Bench, kernels: CudaKernels, dtype: torch.dtype, window: int | None, generator: torch.Generator
) -> float:
    """Outputs and what was stored; where nothing belongs, the KV cache holds nan."""
    step = _step(bench, dtype, window, bench.generator(window or 0))
    spec, place = step.spec, bench.place.torch_device
    heads, head_dim = spec.heads, spec.kv.head_dim
    norms = [_random((head_dim,), dtype, generator, around=1.0, spread=0.1) for _ in range(2)]
    attention = kernels.paged_attention(spec)
    plain = ReferenceAttention(_in_float32(spec))
    filled = _fill(step, plain, dtype, generator)
    attention.pool.copy_(filled)
    qkv, wide = _random(
        (len(step.batch.positions), (heads + 2 * spec.kv.kv_heads) * head_dim), dtype, generator
    )
    own = HeadNorms(*(narrow.to(place) for narrow, _ in norms))
    got = attention.attend(0, qkv.to(place), own, plan_of(attention, step.batch))
    wanted = plain.attend(0, wide, HeadNorms(*(wide for _, wide in norms)), plan_of(plain, step.batch))
    blocks = torch.from_numpy(step.batch.write_blocks)
    offsets = torch.from_numpy(step.batch.positions % BLOCK_SIZE_TOKENS)
    stored = attention.pool[blocks, 0, :, :, offsets].flatten(1, 2)
    stored_error = relative_error(stored, plain.pool[0, blocks, offsets])
    # Averages over long contexts are small numbers: measured together with others they would not count.
    singles = len(step.batch.contexts)
    parts = [slice(i, i + 1) for i in range(singles)] + [slice(singles, None)]
    return worst([stored_error, *(relative_error(got[part], wanted[part]) for part in parts)])


def _in_float32(spec: AttentionSpec) -> AttentionSpec:
    kv = spec.kv
    shape = KVShape(kv.layers, kv.kv_heads, kv.head_dim, kv.blocks, kv.block_size_tokens, torch.float32)
    return AttentionSpec(
        shape, spec.heads, spec.max_positions, spec.inverse_frequencies, spec.norm_eps, spec.windows
    )


def _fill(
    step: _Step, plain: ReferenceAttention, dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    """Contexts of random K and V; returns them as the kernels lay them out, nan everywhere else."""
    kv = step.spec.kv
    pool = torch.full((kv.blocks, 1, 2, kv.kv_heads, kv.block_size_tokens, kv.head_dim), float("nan"))
    for table, context in zip(step.sequences.tables, step.contexts, strict=True):
        positions = torch.arange(context)
        blocks = torch.from_numpy(table)[positions // BLOCK_SIZE_TOKENS]
        offsets = positions % BLOCK_SIZE_TOKENS
        _, values = _random((context, 2 * kv.kv_heads, kv.head_dim), dtype, generator)
        plain.pool[0, blocks, offsets] = values
        pool[blocks, 0, :, :, offsets] = values.view(context, 2, kv.kv_heads, kv.head_dim)
    return pool.to(dtype)
