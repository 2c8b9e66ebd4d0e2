"""The launches of the CUDA executor computed by plain torch, so that its logic is tested in no time.

They take the same tensors as the kernels do, and check what a kernel could not: that every token is
in exactly one tile, and that the units of a tile cover its context once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from ridgeline.engine.executors.cuda import executor, forward
from ridgeline.kernels.cuda import kernels
from ridgeline.kernels.cuda.plan import DevicePlan, Work
from ridgeline.kernels.interface import HeadNorms
from ridgeline.kernels.reference import ReferenceKernels, rms_norm
from ridgeline.models.filters import draw as draw_rows
from ridgeline.protocol import Sampling


def rotate_and_store(
    qkv: torch.Tensor,
    norms: HeadNorms | None,
    eps: float,
    rotary: torch.Tensor,
    plan: DevicePlan,
    pool: torch.Tensor,
    heads: int,
) -> None:
    _, _, kv_heads, block_size, head_dim = pool.shape
    rows = qkv.view(len(qkv), -1, head_dim)
    real = plan.positions >= 0
    assert len(plan.positions) == len(plan.slots) == len(qkv)
    for count, norm in ((slice(heads), "query"), (slice(heads, heads + kv_heads), "key")):
        part = rows[real, count]
        if norms is not None:
            part = rms_norm(part, getattr(norms, norm), eps)
        cos, sin = rotary[plan.positions[real].long()].unsqueeze(1).chunk(2, -1)
        first, second = part.float().chunk(2, -1)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
        rows[real, count] = turned.to(qkv.dtype)
    positions = plan.positions[real].long()
    blocks = plan.tables[plan.slots[real].long(), positions // block_size].long()
    for kind, start in ((0, heads), (1, heads + kv_heads)):
        stored = rows[real, start : start + kv_heads]
        if pool.dtype == torch.float8_e4m3fn:
            stored = stored.float().clamp(-448, 448)
        pool[blocks, kind, :, positions % block_size] = stored.to(pool.dtype)


def attend(
    qkv: torch.Tensor, pool: torch.Tensor, plan: DevicePlan, heads: int, window: int | None, partials: Any
) -> torch.Tensor:
    _, _, kv_heads, block_size, head_dim = pool.shape
    output = torch.full((len(qkv), heads * head_dim), float("nan"), dtype=qkv.dtype)
    done = torch.zeros(len(qkv), dtype=torch.bool)
    for work in plan.works:
        for first_token, queries, slot in _tiles(work):
            for token in range(first_token, first_token + queries):
                assert not done[token], "a token is in two tiles"
                done[token] = True
                context = int(plan.positions[token]) + 1
                assert context > 0 and int(plan.slots[token]) == slot
                seen = torch.arange(0 if window is None else max(0, context - window), context)
                blocks = plan.tables[slot, seen // block_size].long()
                keys, values = (
                    pool[blocks, kind, :, seen % block_size].float().repeat_interleave(heads // kv_heads, 1)
                    for kind in (0, 1)
                )
                query = qkv[token].view(-1, head_dim)[:heads].float()
                scores = torch.einsum("hd,thd->ht", query, keys) * head_dim**-0.5
                output[token] = torch.einsum("ht,thd->hd", scores.softmax(-1), values).flatten()
    assert torch.equal(done, plan.positions >= 0), "a token is in no tile"
    return output


def _tiles(work: Work) -> Iterator[tuple[int, int, int]]:
    """First token, queries and slot of each tile."""
    assert work.merges or len(work.units) == len(work.tiles)
    for first_token, queries, first_unit, parts in work.tiles.tolist():
        units = work.units[first_unit : first_unit + parts].tolist()
        assert queries <= work.tile_queries
        if not queries:
            assert not parts
            continue
        ends = [unit[4] for unit in units[1:]] + [units[0][2] + queries]
        for unit, end in zip(units, ends, strict=True):
            assert unit[:2] == [first_token, queries] and unit[5] == end
            assert unit[6] == (parts > 1)
        yield first_token, queries, units[0][3]


def draw(logits: torch.Tensor, settings: Any, drawn: torch.Tensor) -> torch.Tensor:
    tokens = logits.argmax(-1).int()
    for i, temperature in enumerate(settings.temperature.tolist()):
        if temperature >= 1e-5:
            row = Sampling(
                temperature=temperature,
                top_k=int(settings.top_k[i]),
                top_p=float(settings.top_p[i]),
                min_p=float(settings.min_p[i]),
            )
            uniform = float(settings.uniform[i])
            assert 0 <= uniform < 1
            tokens[i] = draw_rows(logits[i : i + 1].clone(), [row], [uniform])[0]
        if not logits[i].amax().isfinite():
            tokens[i] = -1
        if settings.slot[i] >= 0:
            drawn[settings.slot[i]] = tokens[i].clamp(min=0)
    return tokens


def resolve_tokens(token_ids: torch.Tensor, slots: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    return torch.where(token_ids < 0, drawn[slots.long()], token_ids)


def penalise(
    logits: torch.Tensor,
    rows: torch.Tensor,
    slots: torch.Tensor,
    repetition: torch.Tensor,
    presence: torch.Tensor,
    frequency: torch.Tensor,
    counts: torch.Tensor,
) -> None:
    for i, row in enumerate(rows.tolist()):
        counted = counts[int(slots[i])]
        values, answer = logits[row], counted // 2
        turned = torch.where(values > 0, values / repetition[i], values * repetition[i]).clamp(-1e30, 1e30)
        turned = turned - frequency[i] * answer - presence[i] * (answer > 0)
        logits[row] = torch.where(counted > 0, turned, values)


def count_drawn(counts: torch.Tensor, slots: torch.Tensor, tokens: torch.Tensor) -> None:
    for slot, token in zip(slots.tolist(), tokens.tolist(), strict=True):
        if slot >= 0 and token >= 0:
            counts[slot, token] += 2


def fill_counts(
    counts: torch.Tensor, slot: int, prompt_ids: Sequence[int], answer_ids: Sequence[int]
) -> None:
    counts[slot] = 0
    for token in answer_ids:
        counts[slot, int(token)] += 2
    for token in prompt_ids:
        counts[slot, int(token)] |= 1


@contextmanager
def plain_launchers() -> Iterator[None]:
    """While this lasts, the CUDA executor computes with the functions above."""
    plain = ReferenceKernels()
    here = SimpleNamespace(**globals())
    replaced = {
        kernels: ["rotate_and_store", "attend"],
        forward: ["draw", "resolve_tokens", "penalise", "count_drawn"],
        executor: ["fill_counts", "count_drawn"],
    }
    with mock.patch.multiple(
        kernels,
        rms_norm=plain.rms_norm,
        add_rms_norm=plain.add_rms_norm,
        linear=lambda weight, bias, _: partial(F.linear, weight=weight, bias=bias),
        gated_linear=lambda weight, bias, _: plain.gated_linear(weight, bias),
        head=lambda weight, _: plain.head(weight),
    ):
        patches = [
            mock.patch.object(module, name, getattr(here, name))
            for module, names in replaced.items()
            for name in names
        ]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()
