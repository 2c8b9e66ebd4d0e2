"""How each kind of server tells its load, in its own metrics."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ridgeline.fleet.core.replica import Load


@dataclass(frozen=True, slots=True)
class Names:
    """Where a kind of server tells what; of several names the first that is there counts, for they change.

    Attributes:
        running: sequences in the batch.
        waiting: in its line.
        kv_held: share of KV memory in use; none where it does not tell.
        blocks: a metric whose labels say how large the KV cache is.
        block_labels: of it: tokens in a block, and blocks.
        slots: most sequences in the batch.
    """

    running: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    kv_held: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    block_labels: tuple[str, str] = ("block_size", "num_gpu_blocks")
    slots: tuple[str, ...] = ()


_VLLM = Names(
    running=("vllm:num_requests_running",),
    waiting=("vllm:num_requests_waiting",),
    kv_held=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    blocks=("vllm:cache_config_info",),
)

NAMES: Mapping[str, Names] = MappingProxyType(
    {
        "ridgeline": Names(
            _VLLM.running,
            _VLLM.waiting,
            _VLLM.kv_held,
            _VLLM.blocks,
            slots=("ridgeline_batch_limit_sequences",),
        ),
        "vllm": _VLLM,
        "sglang": Names(
            running=("sglang:num_running_reqs",),
            waiting=("sglang:num_queue_reqs",),
            kv_held=("sglang:token_usage",),
            blocks=("sglang:cache_config_info",),
            block_labels=("page_size", "num_pages"),
        ),
        "tgi": Names(running=("tgi_batch_current_size",), waiting=("tgi_queue_size",)),
        "llama.cpp": Names(
            running=("llamacpp:requests_processing",), waiting=("llamacpp:requests_deferred",)
        ),
        "openai": Names(),
    }
)

_SAMPLE = re.compile(r"^([\w:]+)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def load_of(engine: str, text: str, now: float, slots: int) -> tuple[Load | None, tuple[str, ...]]:
    """What metrics in Prometheus' text say of the load.

    Args:
        engine: one of `NAMES`.
        text: what was scraped.
        now: when.
        slots: of the server, where it does not tell.

    Returns:
        The load, None where it is not known; and the metrics that ought to be there and are not.
    """
    names = NAMES[engine]
    samples = _samples(text)
    missing = []

    def value(wanted: tuple[str, ...]) -> float:
        for name in wanted:
            if name in samples:
                return samples[name][1]
        if wanted:
            missing.append(wanted[0])
        return 0.0

    running, waiting, kv_held = value(names.running), value(names.waiting), value(names.kv_held)
    most = value(names.slots)
    kv_tokens = _kv_tokens(names, samples)
    if names.blocks and not kv_tokens:
        missing.append(names.blocks[0])
    if not names.running or names.running[0] in missing:
        return None, tuple(missing)
    load = Load(
        now, int(running), int(most) or slots, int(waiting), min(1.0, max(0.0, kv_held)), kv_tokens=kv_tokens
    )
    return load, tuple(missing)


def started_of(text: str) -> float | None:
    """When the server's process began, in seconds since 1970, where it tells."""
    found = _samples(text).get("process_start_time_seconds")
    return None if found is None else found[1]


def _samples(text: str) -> dict[str, tuple[str, float]]:
    """Labels and value by name; of several samples of one name the first."""
    found: dict[str, tuple[str, float]] = {}
    for line in text.splitlines():
        match = None if line.startswith("#") else _SAMPLE.match(line)
        if match is None or match[1] in found:
            continue
        try:
            found[match[1]] = (match[2] or "", float(match[3]))
        except ValueError:
            continue
    return found


def _kv_tokens(names: Names, samples: Mapping[str, tuple[str, float]]) -> int:
    for name in names.blocks:
        labels = dict(_LABEL.findall(samples.get(name, ("", 0.0))[0]))
        try:
            return int(labels[names.block_labels[0]]) * int(labels[names.block_labels[1]])
        except (KeyError, ValueError):
            continue
    return 0
