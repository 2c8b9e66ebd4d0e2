"""Every metric there is: the one table from which they are exported and documented."""

from dataclasses import dataclass
from typing import Literal

_MILLISECONDS = (
    0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15,
    0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
_SECONDS = (
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0,
    120.0, 300.0,
)  # fmt: skip
_HOST = (0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric.

    Attributes:
        name: as it is scraped, with prefix and, for a counter, `_total`.
        kind: Prometheus' type.
        help: meaning and unit in one line.
        labels: besides the model's.
        buckets: upper bounds of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


DEFINITIONS: tuple[Definition, ...] = (
    Definition("ridgeline_batch_size", "gauge", "Sequences in the last step; 0 when idle."),
    Definition("ridgeline_batch_tokens", "gauge", "Tokens computed by the last step; 0 when idle."),
    Definition(
        "ridgeline_batch_headroom_sequences", "gauge", "How many more sequences the batch could take now."
    ),
    Definition(
        "ridgeline_headroom_sequences",
        "gauge",
        "How many more until this ends: slots, kv, latency (its target), ridge; +Inf where the ridge is "
        "out of reach, for the KV traffic of each sequence outweighs its arithmetic.",
        ("until",),
    ),
    Definition(
        "ridgeline_batch_limit_sequences", "gauge", "Sequences that the controller allows in the batch now."
    ),
    Definition("ridgeline_step_limit_tokens", "gauge", "Tokens that the controller allowed the last step."),
    Definition(
        "ridgeline_inter_token_target_seconds",
        "gauge",
        "What the controller keeps the time between two tokens under; absent where steps are fixed.",
    ),
    Definition(
        "ridgeline_kv_utilization_ratio", "gauge", "KV blocks in use by running requests over all.", ("tier",)
    ),
    Definition("ridgeline_kv_idle_ratio", "gauge", "KV blocks cached but reclaimable over all.", ("tier",)),
    Definition(
        "ridgeline_kv_copied_blocks_total",
        "counter",
        "KV blocks copied out of the device into a tier below it, and back in.",
        ("tier", "direction"),
    ),
    Definition(
        "ridgeline_kv_lost_copies_total",
        "counter",
        "KV blocks not copied: out, as too many were on their way or writing failed; in, as they were gone, "
        "damaged or too late.",
        ("tier", "direction"),
    ),
    Definition(
        "ridgeline_kv_saved_seconds_total",
        "counter",
        "Seconds of computing that cached prompts saved: live; and would have saved with lru, with no tiers.",
        ("by",),
    ),
    Definition(
        "ridgeline_kv_load_seconds_total", "counter", "Time spent on reading KV blocks of a tier.", ("tier",)
    ),
    Definition(
        "ridgeline_prefix_tokens_total",
        "counter",
        "Prompt tokens by what the prefix cache did: hit; cold, never seen; evicted, seen and lost; "
        "short, in a block that is not full and so cannot be shared.",
        ("result",),
    ),
    Definition(
        "ridgeline_recomputed_tokens_total",
        "counter",
        "Tokens computed again after their KV was lost.",
        ("cause",),
    ),
    Definition("ridgeline_recompute_seconds_total", "counter", "Time spent on computing tokens again."),
    Definition("ridgeline_kv_blocks_evicted_total", "counter", "Cached KV blocks given up.", ("reason",)),
    Definition("ridgeline_preemptions_total", "counter", "Running requests put back to make room."),
    Definition(
        "ridgeline_draft_tokens_total",
        "counter",
        "Tokens guessed and computed in advance: accepted, if they were drawn then, or rejected.",
        ("result",),
    ),
    Definition("ridgeline_step_flops_total", "counter", "Operations that the steps' maths needs."),
    Definition(
        "ridgeline_step_bytes_total", "counter", "Bytes that the steps have to move from and to memory."
    ),
    Definition(
        "ridgeline_arithmetic_intensity",
        "gauge",
        "Operations per byte over the last 5 s; absent when nothing ran.",
    ),
    Definition(
        "ridgeline_ridge_point",
        "gauge",
        "Operations per byte at which the device's peak rates balance; absent where they are unknown.",
    ),
    Definition(
        "ridgeline_attainable_ridge_point",
        "gauge",
        "The same of the rates that steps were seen to reach.",
    ),
    Definition(
        "ridgeline_ridge_batch_sequences",
        "gauge",
        "Sequences at which decoding at the present mean context reaches the attainable ridge; +Inf where "
        "no batch does.",
    ),
    Definition(
        "ridgeline_intensity_limit",
        "gauge",
        "Operations per byte that decoding at the present mean context tends to as the batch grows.",
    ),
    Definition(
        "ridgeline_peak_flops_per_second", "gauge", "Of the device in the dtype in use; absent if unknown."
    ),
    Definition("ridgeline_peak_bytes_per_second", "gauge", "Of the device's memory; absent if unknown."),
    Definition(
        "ridgeline_flops_utilization_ratio",
        "gauge",
        "Operations over the peak, over the last 5 s (MFU); absent where the peak is unknown.",
    ),
    Definition(
        "ridgeline_bandwidth_utilization_ratio",
        "gauge",
        "Bytes moved over the peak, over the last 5 s (MBU); absent where the peak is unknown.",
    ),
    Definition(
        "ridgeline_bound_by", "gauge", "1 for what bound most of the last 5 s, else 0.", ("resource",)
    ),
    Definition("ridgeline_bound_seconds_total", "counter", "Time bound by each resource.", ("resource",)),
    Definition(
        "ridgeline_device_busy_ratio", "gauge", "Share of the last 5 s in which the device ran a step."
    ),
    Definition(
        "ridgeline_prediction_error_ratio",
        "gauge",
        "How far the latest 512 predictions were off, over the outcome: of steps' time, of the time to the "
        "first token, of prompt tokens found in the cache, of waits.",
        ("what", "quantile"),
    ),
    Definition(
        "ridgeline_prediction_bias_ratio",
        "gauge",
        "Median of (predicted - outcome) / outcome; above 0 where too much is predicted.",
        ("what",),
    ),
    Definition("ridgeline_predictions_total", "counter", "Predictions that met their outcome.", ("what",)),
    Definition("ridgeline_requests", "gauge", "Requests now, waiting or running.", ("state",)),
    Definition(
        "ridgeline_requests_total",
        "counter",
        "Finished requests: stop, length, cancelled, failed, or the code of a refusal.",
        ("outcome",),
    ),
    Definition("ridgeline_prompt_tokens_total", "counter", "Prompt tokens of finished requests."),
    Definition("ridgeline_completion_tokens_total", "counter", "Tokens drawn for finished requests."),
    Definition(
        "ridgeline_time_to_first_token_seconds",
        "histogram",
        "From receipt at the server to the first token.",
        buckets=_SECONDS,
    ),
    Definition(
        "ridgeline_inter_token_latency_seconds",
        "histogram",
        "Between two tokens of one answer.",
        buckets=_MILLISECONDS,
    ),
    Definition("ridgeline_request_seconds", "histogram", "From receipt to the end.", buckets=_SECONDS),
    Definition("ridgeline_queue_seconds", "histogram", "From receipt to the first step.", buckets=_SECONDS),
    Definition("ridgeline_step_seconds", "histogram", "Length of a step.", buckets=_MILLISECONDS),
    Definition("ridgeline_host_step_seconds", "histogram", "The host's part of a step.", buckets=_HOST),
    Definition(
        "ridgeline_engine_info",
        "gauge",
        "Always 1; its labels say what computes: dtype, and which kernels.",
        ("dtype", "kernels"),
    ),
    Definition("vllm:num_requests_running", "gauge", "As ridgeline_requests{state=running}."),
    Definition("vllm:num_requests_waiting", "gauge", "As ridgeline_requests{state=waiting}."),
    Definition("vllm:kv_cache_usage_perc", "gauge", "As ridgeline_kv_utilization_ratio; 1 is full."),
    Definition("vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up in the prefix cache."),
    Definition("vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache."),
    Definition(
        "vllm:cache_config_info", "gauge", "Always 1; its labels are facts.", ("block_size", "num_gpu_blocks")
    ),
)

FLEET_DEFINITIONS: tuple[Definition, ...] = (
    Definition("ridgeline_fleet_waiting", "gauge", "Requests in the front door's line."),
    Definition("ridgeline_fleet_replicas", "gauge", "Replicas that are there.", ("state",)),
    Definition(
        "ridgeline_fleet_replica_running", "gauge", "Sequences believed to be at a replica.", ("replica",)
    ),
    Definition(
        "ridgeline_fleet_replica_slots", "gauge", "Most sequences of a replica's batch.", ("replica",)
    ),
    Definition(
        "ridgeline_fleet_replica_kv_held_ratio",
        "gauge",
        "KV memory that running sequences hold over all, as the replica told it last.",
        ("replica",),
    ),
    Definition(
        "ridgeline_fleet_replica_load_age_seconds", "gauge", "Since a replica told its load.", ("replica",)
    ),
    Definition(
        "ridgeline_fleet_missing_metrics",
        "gauge",
        "1 for each metric that a replica ought to tell and does not: its load is not known.",
        ("replica", "metric"),
    ),
    Definition("ridgeline_fleet_sent_total", "counter", "Requests sent to a replica.", ("replica",)),
    Definition(
        "ridgeline_fleet_returned_total",
        "counter",
        "Requests that came back from a replica without an end: it was full, or there was a fault.",
        ("replica", "why"),
    ),
    Definition(
        "ridgeline_fleet_refused_total", "counter", "Requests that were not served, by code.", ("code",)
    ),
    Definition(
        "ridgeline_fleet_cached_tokens_total",
        "counter",
        "Prompt tokens of ended requests that were cached: predicted when they were sent, and actual.",
        ("by",),
    ),
    Definition(
        "ridgeline_fleet_corrected_keys_total",
        "counter",
        "Pieces of 256 bytes of text that were believed to be cached at a replica until it told otherwise "
        "(unlearned), and that it told to have unasked (learned).",
        ("how",),
    ),
    Definition(
        "ridgeline_fleet_overhead_seconds",
        "histogram",
        "From receipt of a request until it was placed or began to wait.",
        buckets=_HOST,
    ),
)
"""Of a front door; they have no label for a model."""

BY_NAME = {definition.name: definition for definition in DEFINITIONS}


def model_label(definition: Definition) -> str:
    """Name of the label that carries the model; vLLM has its own."""
    return "model_name" if definition.name.startswith("vllm:") else "model"
