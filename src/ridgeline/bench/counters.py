"""What a server's own counters say of its prefix cache, before and after a run."""

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

_OURS = "ridgeline_prefix_tokens_total"
_QUERIES, _HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
_MODEL_LABELS = ("model", "model_name")
_TIMEOUT = aiohttp.ClientTimeout(total=10)


@dataclass(frozen=True, slots=True)
class CacheCounters:
    """Prompt tokens by what the prefix cache did with them, since the server's start.

    Attributes:
        source: name of the metric.
        tokens: `hit` and the ways of missing: cold, evicted, short; only `miss` from vLLM.
    """

    source: str
    tokens: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CacheChange:
    """What the counters counted during the run, whoever asked.

    Attributes:
        source: name of the metric.
        before: tokens when measuring began.
        after: when it ended.
        tokens: the difference.
        hit_ratio: of all prompt tokens in the difference; None if there were none.
        foreign_ratio: how many more tokens the server saw than this run sent, of those it saw; above
            some percent somebody else was asking. Below 0, an answer is not in the counters.
    """

    source: str
    before: dict[str, float]
    after: dict[str, float]
    tokens: dict[str, float]
    hit_ratio: float | None
    foreign_ratio: float | None


def parse(text: str, model: str) -> CacheCounters | None:
    """Find cache counters in a page of Prometheus' text format; None where there are none.

    Counts this model's alone where the samples name models that include it, else all.

    Raises `ValueError` for what is no such page.
    """
    samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in (_OURS, _QUERIES, _HITS):
                samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    if _OURS in samples:
        results = {labels.get("result", "") for labels, _ in samples[_OURS]}
        tokens = {
            result: _sum([pair for pair in samples[_OURS] if pair[0].get("result", "") == result], model)
            for result in sorted(results)
        }
        return CacheCounters(_OURS, tokens)
    if _QUERIES in samples and _HITS in samples:
        hits = _sum(samples[_HITS], model)
        return CacheCounters(_QUERIES, {"hit": hits, "miss": _sum(samples[_QUERIES], model) - hits})
    return None


def _sum(samples: list[tuple[Mapping[str, str], float]], model: str) -> float:
    own = [value for labels, value in samples if model in (labels.get(name) for name in _MODEL_LABELS)]
    return sum(own or [value for _, value in samples])


def change(
    before: CacheCounters | None, after: CacheCounters | None, prompt_tokens: int
) -> CacheChange | None:
    """The difference; None where either is missing, or the server began anew between them.

    `prompt_tokens` are those that the run's completed requests had.
    """
    if before is None or after is None or before.source != after.source:
        return None
    names = sorted({*before.tokens, *after.tokens})
    tokens = {name: after.tokens.get(name, 0.0) - before.tokens.get(name, 0.0) for name in names}
    if min(tokens.values(), default=0.0) < 0:
        return None
    seen = sum(tokens.values())
    return CacheChange(
        before.source,
        dict(before.tokens),
        dict(after.tokens),
        tokens,
        tokens.get("hit", 0.0) / seen if seen else None,
        (seen - prompt_tokens) / seen if seen else None,
    )


async def read(session: aiohttp.ClientSession, url: str, model: str) -> CacheCounters | None:
    """The server's counters now; None where it shows none."""
    try:
        async with session.get(f"{url}/metrics", timeout=_TIMEOUT) as response:
            if response.status != 200:
                return None
            return parse(await response.text(), model)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
