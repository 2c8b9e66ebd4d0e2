"""Drawing on the device against drawing on the CPU, for the same logits and uniform numbers."""

import torch

from gpu.bench import Bench
from gpu.compare import put_check
from ridgeline.engine.executors.cuda import forward
from ridgeline.kernels.cuda.sampling import DrawSettings
from ridgeline.models.filters import draw
from ridgeline.models.sampling import GREEDY_BELOW
from ridgeline.protocol import Sampling

_SETTINGS = (
    Sampling(temperature=0.0),
    Sampling(temperature=0.7),
    Sampling(temperature=1.0, top_k=50),
    Sampling(temperature=0.8, top_p=0.95),
    Sampling(temperature=1.3, top_k=400, top_p=0.9),
    Sampling(temperature=1.0, min_p=0.05),
)

_OTHERS_ALLOWED = 0.05
"""Of the rows: sums are in float32 on the device and in float64 on the CPU, so that a number which falls
on the border of two tokens, or a top_p on that of a set, may go either way. A wrong rule shows in
most rows."""


def check_draws(bench: Bench, name: str) -> None:
    """Share of rows with another token than the CPU's; greedy rows and broken ones must all agree."""
    vocab, rows = bench.scale.vocab, bench.scale.draws
    generator = torch.Generator().manual_seed(bench.seed)
    logits = 3 * torch.randn(rows, vocab, generator=generator)
    chosen = [_SETTINGS[i % len(_SETTINGS)] for i in range(rows)]
    uniforms = torch.rand(rows, generator=generator).clamp_(max=1 - 2.0**-24)
    got = _drawn(bench, logits, chosen, uniforms)
    warm = [i for i, s in enumerate(chosen) if s.temperature >= GREEDY_BELOW]
    wanted = logits.argmax(-1).tolist()
    drawn = draw(logits[warm], [chosen[i] for i in warm], uniforms[warm].tolist())
    for i, token in zip(warm, drawn, strict=True):
        wanted[i] = token
    cold = sorted(set(range(rows)) - set(warm))
    greedy = sum(got[i] != wanted[i] for i in cold) / max(1, len(cold))
    sampled = sum(got[i] != wanted[i] for i in warm) / len(warm)
    put_check(bench, name, "float32", "greedy draws", greedy, 0.0)
    put_check(bench, name, "float32", "sampled draws", sampled, _OTHERS_ALLOWED)

    settings = list(_SETTINGS[:1] if bench.place.plain else _SETTINGS)
    broken = logits[: len(settings)].clone()
    broken[:, vocab // 2] = float("nan")
    kept = sum(token != -1 for token in _drawn(bench, broken, settings, uniforms[: len(broken)]))
    put_check(bench, name, "float32", "draws from nan", kept / len(broken), 0.0)


def _drawn(bench: Bench, logits: torch.Tensor, rows: list[Sampling], uniforms: torch.Tensor) -> list[int]:
    place = bench.place.torch_device

    def floats(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=place)

    def integers(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=place)

    settings = DrawSettings(
        temperature=floats([s.temperature for s in rows]),
        top_k=integers([s.top_k for s in rows]),
        top_p=floats([s.top_p for s in rows]),
        min_p=floats([s.min_p for s in rows]),
        uniform=uniforms.to(place),
        slot=integers(list(range(len(rows)))),
    )
    memory = torch.zeros(len(rows), dtype=torch.int32, device=place)
    tokens: list[int] = forward.draw(logits.to(place), settings, memory).tolist()
    if memory.tolist() != [max(token, 0) for token in tokens]:
        raise RuntimeError("what was drawn is not what was kept for the next step")
    return tokens
